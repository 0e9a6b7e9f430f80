"""Settings from files: types, unknown fields, aliases, depth and size."""

import json

import pytest
from pydantic import Field

from deepgcn_seg import schema
from deepgcn_seg.errors import UserError
from deepgcn_seg.old_names import renamed, renamed_argument
from deepgcn_seg.schema import Schema, read_json, read_yaml


class Example(Schema):
    count: int = Field(ge=1)
    share: float = 0.5
    names: tuple[str, ...] = ()


def test_what_fits_is_read_and_written_the_same():
    content = {"count": 3, "share": 0.25, "names": ["a", "b"]}
    assert Example.of(content, "f").plain() == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "f: count is missing"),
        ({"count": "3"}, "f: count='3': input should be a valid integer"),
        ({"count": True}, "f: count=True"),
        ({"count": 0}, "f: count=0: input should be greater than or equal to 1"),
        ({"count": 1, "share": float("nan")}, "f: share=nan: input should be a finite number"),
        ({"count": 1, "share": float("inf")}, "f: share=inf"),
        ({"count": 1, "names": ["a", 2]}, "f: names.1=2: input should be a valid string"),
        ({"count": 1, "more": 2}, "f: unknown field more"),
        ([1], "f: must be a mapping of names to values"),
        (None, "f: must be a mapping of names to values"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_field(content, message):
    with pytest.raises(UserError) as caught:
        Example.of(content, "f")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_lists_that_hold_one_another_and_huge_numbers_end_at_once():
    many, endless, mapped = [1], [], {}
    endless.append(endless)
    mapped["names"] = mapped
    for _ in range(64):
        many = [many] * 2
    wide = [[1] * 1001] * (schema.MAX_VALUES // 1000)
    cases = [
        (many, "more than"),
        ({"a": many}, "more than"),
        (wide, "more than"),
        (endless, "too deeply"),
        (mapped, "too deeply"),
        (10**10_000, "names=.a huge number"),
    ]
    for value, message in cases:
        with pytest.raises(UserError, match=message):
            Example.of({"count": 1, "names": value}, "f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: [*x, *x]\n", "aliases"),
        ("a: &a [*a]", "aliases"),
        ("[" * 100_000, "recursion"),
        ("a: !!python/object/apply:os.system [ls]", "tag"),
        ("a: 2024-13-45", "month"),
        ("a: [", "not a readable YAML"),
        ("a: {b: 1, b: 2}", "twice"),
        ("a: " + "x" * schema.MAX_YAML, "larger than 1 MiB"),
    ],
)
def test_yaml_that_is_no_plain_data_is_one_line(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_yaml(path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": NaN}', "[1e999, Infinity]", '{"a": {"b": 1, "b": 2}}', '{"a": 1', "\0"]
)
def test_json_that_is_no_plain_data_is_one_line(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match="not a readable JSON"):
        read_json(path)


def test_as_many_values_as_are_allowed_are_read_and_no_more():
    counts = {"count": 1, "names": ["a"] * (schema.MAX_VALUES - 3)}
    assert len(Example.of(counts, "f").names) == schema.MAX_VALUES - 3
    with pytest.raises(UserError, match="more than 2,000,000 values"):
        Example.of({**counts, "names": [*counts["names"], "b"]}, "f")


def test_plain_data_is_read_as_it_is(tmp_path):
    content = {"a": [1, 2.5, "ü", None, True]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "a.yaml").write_text("a: [1, 2.5, ü, null, true]", encoding="utf-8")
    assert read_json(tmp_path / "a.json") == read_yaml(tmp_path / "a.yaml") == content


def test_what_is_not_a_file_is_one_line(tmp_path):
    (tmp_path / "latin").write_bytes(b"a: \xff")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "latin"):
        with pytest.raises(UserError, match=str(path)):
            read_yaml(path)


def test_old_names_of_settings_are_replaced_unless_the_present_one_is_there():
    assert renamed({"checkpoint": True, 3: 2}, "model") == {"recompute": True, 3: 2}
    assert renamed({"checkpoint": True, "recompute": False}, "model") == {"checkpoint": True, "recompute": False}
    assert renamed({"model.checkpoint": True, "k": 1}) == {"model.recompute": True, "k": 1}


@pytest.mark.parametrize(
    ("old", "present"),
    [
        (
            {"graph.dynamic": True, "model.dynamic": "${graph.dynamic}"},
            {"graph.name": "dynamic", "model.graph": "${graph.name}"},
        ),
        ({"graph.dynamic": False, "model.dynamic": False}, {"graph.name": "fixed", "model.graph": "fixed"}),
        # As run.json has them.
        ({"graph.dynamic": "True", "model.dynamic": "False"}, {"graph.name": "dynamic", "model.graph": "fixed"}),
        # What never was a value stays, to be refused under the present name.
        ({"model.dynamic": [1, {2: 3}]}, {"model.graph": [1, {2: 3}]}),
        ({"model.dynamic": 10**5000}, {"model.graph": 10**5000}),
    ],
    ids=["config", "fixed", "run.json", "a list", "a huge number"],
)
def test_old_values_become_present_ones(old, present):
    assert renamed(old) == present


@pytest.mark.parametrize(
    ("old", "present"),
    [
        ("graph.dynamic=false", "graph.name=fixed"),
        ("graph.dynamic=true,false", "graph.name=dynamic,fixed"),
        ("model.checkpoint=true", "model.recompute=true"),
        ("protocol.groups=[block,color]", "protocol.features=[block,color]"),
        ("+model.checkpoint=true", "+model.checkpoint=true"),
        ("graph=fixed", "graph=fixed"),
        ("-m", "-m"),
    ],
)
def test_arguments_of_old_names_become_present_ones(old, present):
    assert renamed_argument(old) == present
