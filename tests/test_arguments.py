"""Paths and names on the command line reach the program as they are typed."""

import argparse
import os

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from test_commands import ROOT

from deepgcn_seg.commands.command_line.arguments import FOLD, PATHS, TEMPLATES, assigned, for_hydra, require_settings
from deepgcn_seg.commands.command_line.arguments import given as given_value
from deepgcn_seg.commands.command_line.hydra_main import hydra_main
from deepgcn_seg.errors import UserError

TYPED = [
    "Räume/Büro 2.ply", "扫描/室.las", "Scan (2).ply", "a,b.ply", "a, b", "Jim's room.ply", 'the "big" hall.ply',
    "hall=1.ply", "a=b=c", "hall#3.ply", " #1", "[x].ply", "[a,b]", "{a:1}", "{", "$HOME/x", "a${x}b", "C:\\scans\\a.ply",
    "a\\", "\\'", "\\\\${x}", "20240512", "2024_05_12", "2024-05-12", "1e5", "0x10", "007", "nan", ".inf", "true", "off",
    "None", "./???", "a:b", "-x", "+x", "!x", "*.ply", "@file", "%d", "it's \\ 'odd'", "'a' and 'b'", "choice(1).ply",
    "choice(a,b)", "range(1,3)", "${oc.env:HOME}", "${now:%Y}", "a\tb", "a\nb", " a ", "\udce4.ply", "🙂",
]  # fmt: skip
NASTY = st.lists(
    st.sampled_from([*"ab1_./ äß漢()=,'\"#[]{}$\\~:;&|!?*%@^`<>+-\t\n\udce4", "${", "null", "'a'", "1e5", "${oc.env:HOME}"]),
    min_size=1,
    max_size=10,
).map("".join)  # fmt: skip


def read(argument):
    """The value that an argument has in the end, through Hydra's parser and OmegaConf's nodes."""
    parsed = OverridesParser.create().parse_override(argument)
    assert not parsed.is_sweep_override(), argument
    config = OmegaConf.create({"value": parsed.value()})
    # As it is stored, and composed again from there.
    assert OmegaConf.create(OmegaConf.to_yaml(config)).value == config.value
    return config.value


@pytest.mark.parametrize("text", TYPED)
def test_a_path_is_what_was_typed(text):
    for key in PATHS:
        if (key, text) == ("data.root", "${oc.env:HOME}"):
            continue
        if "${" in text and key in ("data.root", "resume"):
            with pytest.raises(UserError, match=f"^{key}="):
                for_hydra([f"{key}={text}"])
            continue
        # Several checkpoints are a list.
        expected = ["a", "b"] if (key, text) == ("checkpoint", "[a,b]") else text
        assert read(for_hydra([f"{key}={text}"])[0]) == expected
        if not text.startswith(("choice(a", "range(1,")):
            assert read(for_hydra(["-m", f"{key}={text}"])[1]) == expected


@settings(max_examples=500, deadline=None)
@given(NASTY, st.sampled_from([*PATHS, *TEMPLATES, FOLD]), st.sampled_from([[], ["-m"]]))
@example("a,b", "input", ["-m"])
def test_any_path_is_what_was_typed(text, key, sweeping):
    assume(text not in ("null", "???"))
    # Several checkpoints are a list.
    assume(key != "checkpoint" or not (text.startswith("[") and text.endswith("]")))
    # One whole quoted text is Hydra's; what is filled in is a template's matter.
    assume(not (text[0] == text[-1] and text[0] in "'\"" and len(text) > 1))
    assume("${" not in text or key not in (*TEMPLATES, "data.root", "resume"))
    # Areas are swept, and numbered.
    assume(key != FOLD or not ("," in text or text.isdigit()))
    wanted = text if key == FOLD else os.path.expanduser(text)
    arguments = for_hydra([*sweeping, f"{key}={text}"])
    assert read(arguments[-1]) == wanted
    # The command that run.json keeps is one to repeat.
    assert for_hydra(arguments) == arguments


@settings(max_examples=200, deadline=None)
@given(NASTY, st.sampled_from(PATHS))
def test_a_path_that_the_program_gives_is_as_exact(text, key):
    assume(text != "???")
    assert read(assigned(key, text)) == text


@pytest.mark.parametrize(
    ("typed", "paths"),
    [
        ("[a.ckpt]", ["a.ckpt"]),
        ("[runs/a b, (c)=1.ckpt]", ["runs/a b", "(c)=1.ckpt"]),
        ("['a,b.ckpt',\"c,d\",e]", ["a,b.ckpt", "c,d", "e"]),
        ("[1,null]", ["1", "null"]),
        ("[]", []),
    ],
)
def test_several_checkpoints_are_the_paths_that_were_typed(typed, paths):
    assert read(for_hydra([f"checkpoint={typed}"])[0]) == paths


def test_a_checkpoint_whose_name_looks_like_a_list_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[a,b]").touch()
    assert read(for_hydra(["checkpoint=[a,b]"])[0]) == "[a,b]"


@pytest.mark.parametrize(
    ("typed", "means"),
    [
        ("input='a b.ply'", "a b.ply"),
        ('input="a b.ply"', "a b.ply"),
        (r"input='it\'s'", "it's"),
        ("input='20240512'", "20240512"),
        ("input='${oc.env:HOME}'", "${oc.env:HOME}"),
        ("++input=20240512", "20240512"),
        ("input=null", None),
        ("input=???", "./???"),
    ],
)
def test_quotes_of_hydras_own_still_count(typed, means):
    assert read(for_hydra([typed])[0]) == means


@pytest.mark.parametrize(
    ("typed", "means"),
    [
        ("${oc.env:DATA}", "/it's (1), a"),
        ("'${oc.env:DATA}'", "/it's (1), a"),
        ("${oc.env:DATA}/büro {2}", "/it's (1), a/büro {2}"),
        ("/x/${oc.env:NOT_SET,data/s3dis}/${oc.env:DATA}", "/x/data/s3dis//it's (1), a"),
    ],
)
@pytest.mark.parametrize("sweeping", [[], ["-m"]])
def test_an_environment_variable_is_filled_in_where_data_are(typed, means, sweeping, monkeypatch):
    monkeypatch.setenv("DATA", "/it's (1), a")
    argument = for_hydra([*sweeping, f"data.root={typed}"])[-1]
    assert for_hydra([argument]) == [argument]
    parsed = OverridesParser.create().parse_override(argument)
    assert not parsed.is_sweep_override()
    assert OmegaConf.create({"value": parsed.value()}).value == means


@pytest.mark.parametrize(
    "text",
    [
        "${oc.create:{_target_:os.system}}",
        "${oc.env:DATA,${oc.create:{_target_:os.system}}}",
        "${oc.env:DATA}${data.name}",
        "${oc.env:${oc.env:DATA}}",
        "${oc.env:DATA",
    ],
)
def test_nothing_else_is_filled_in_where_data_are(text):
    with pytest.raises(UserError, match=r"^data\.root=.* must not have \$\{ in it"):
        for_hydra([f"data.root={text}"])


@pytest.mark.parametrize("text", ["~", "~/scan.ply", "~/a b,c"])
def test_the_home_folder_is_filled_in(text, monkeypatch):
    monkeypatch.setenv("HOME", "/home/jörg (2)")
    assert read(for_hydra([f"input={text}"])[0]) == "/home/jörg (2)" + text[1:]
    assert given_value([f"resume={text}"], "resume") == "/home/jörg (2)" + text[1:]
    assert read(for_hydra(["input=a~b"])[0]) == "a~b"


def test_a_run_directory_is_a_template():
    typed = ["hydra.run.dir=out, (2)/${backbone.name}", "hydra.sweep.dir='it\\'s ${depth}'"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", for_hydra(typed), return_hydra_config=True)
    assert config.hydra.run.dir == "out, (2)/resgcn"
    assert config.hydra.sweep.dir == "it's 28"


@pytest.mark.parametrize(
    ("typed", "fold"),
    [("5", 5), ("0", 0), ("20240512", 20240512), ("2024_05_12", "2024_05_12"), ("007", "007"), ("'5'", "5"), ("-1", "-1")]
    + [(name, name) for name in ("nan", "true", "north wing", "a,b", "1e5", "None")]
    + [("null", None)],
)  # fmt: skip
def test_a_fold_is_a_number_or_a_name(typed, fold):
    value = read(for_hydra([f"data.fold={typed}"])[0])
    assert value == fold and type(value) is type(fold)


@pytest.mark.parametrize(
    ("typed", "choices"),
    [
        ("data.fold=1,2,3", [1, 2, 3]),
        ("data.fold=north wing,2024_05_12,3", ["north wing", "2024_05_12", 3]),
        ("data.fold='a,b','c'", ["a,b", "c"]),
        ("input=choice('a.ply','b.ply')", ["a.ply", "b.ply"]),
        ("input='a.ply','b.ply'", ["a.ply", "b.ply"]),
    ],
)
def test_what_sweeps_in_a_multirun(typed, choices):
    parsed = OverridesParser.create().parse_override(for_hydra(["-m", typed])[-1])
    values = [value.text if isinstance(value, QuotedString) else value for value in parsed.value().list]
    assert values == choices


def test_a_sweep_over_paths_is_told_how_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"weights=a,b: is one path, .* a sweep is \"weights=choice\('a','b'\)\"$"):
        for_hydra(["-m", "weights=a,b"])
    assert for_hydra(["-m", "weights=choice('a','b')"])[-1] == "weights=choice('a','b')"
    # Of which one part is not there: it may be one name. So may it be of one run.
    assert for_hydra(["-m", "weights=a,c"])[-1] == "weights='a,c'"
    assert for_hydra(["weights=a,b"]) == ["weights='a,b'"]
    (tmp_path / "a,b").mkdir()
    assert for_hydra(["-m", "weights=a,b"])[-1] == "weights='a,b'"


def test_other_settings_are_hydras():
    arguments = [
        "-m",
        "depth=7,14",
        "columns=[x,y,z]",
        "--cfg",
        "job",
        "~data.areas",
        "shard=2/8",
        "+recipe.optimizer.eps=1",
    ]
    assert for_hydra(arguments) == arguments


@pytest.mark.parametrize("value", ["null", "", "???", "'???'", '"???"'])
@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
def test_a_run_directory_must_be_a_folder(key, value):
    with pytest.raises(UserError) as raised:
        for_hydra([f"{key}={value}"])
    assert str(raised.value) == f"{key}={value}: must be a folder"


def test_what_is_no_setting_says_what_to_write():
    require_settings(["--cfg", "job", "-m", "a=1", "~b", "--config-dir", "x", "input=a b"], "input")
    for arguments in (["a=1", "scan.ply"], ["--help", "scan.ply"]):
        with pytest.raises(UserError, match=r"^scan\.ply is no setting: write input=scan\.ply$"):
            require_settings(arguments, "input")


def test_commands_start_where_argparse_wants_help_texts_to_be_strings(monkeypatch, tmp_path, capsys):
    """As Python 3.14 does when an argument is added; Hydra 1.3 gives an object."""

    def check(parser, action):
        if action.help and "%" in action.help:
            action.help % vars(action)

    monkeypatch.setattr(argparse._ActionsContainer, "_check_help", check, raising=False)
    add = argparse._ActionsContainer.add_argument

    def add_checked(parser, *names, **settings):
        action = add(parser, *names, **settings)
        parser._check_help(action)
        return action

    monkeypatch.setattr(argparse._ActionsContainer, "add_argument", add_checked)
    # Hydra's logging would be that of all later tests.
    logging = "defaults: [override hydra/job_logging: none, override hydra/hydra_logging: none, _self_]"
    hydra = "hydra: {output_subdir: null, run: {dir: .}}"
    (tmp_path / "own.yaml").write_text(f"{logging}\nanswer: 1\n{hydra}\n")
    monkeypatch.setattr("sys.argv", ["own", "answer=42"])
    monkeypatch.chdir(tmp_path)
    hydra_main(lambda config: print(config.answer), tmp_path, "own")
    assert capsys.readouterr().out == "42\n"
    assert argparse.ArgumentParser._check_help is check
