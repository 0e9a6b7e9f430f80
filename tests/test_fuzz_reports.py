"""Reports of runs whose metrics.json, run.json and files of .hydra are sound files of odd content, a few hundred in
every test run. FUZZ_EXAMPLES=10000 makes it that many of each."""

import contextlib
import io
import json
import os

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from test_report import changed, make_run, two_runs

from deepgcn_seg.commands.report import report
from deepgcn_seg.errors import UserError
from deepgcn_seg.reporting.page import write_page
from deepgcn_seg.reporting.reading import LeftOut
from deepgcn_seg.reporting.runs import find_runs
from deepgcn_seg.reporting.six_folds import six_folds
from deepgcn_seg.reporting.tables import comparisons

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
# Figures and their fonts take most of a report's time.
WHOLE_REPORTS = max(EXAMPLES // 20, 5)

# Markup of every form of output, paths, and what composes a config.
ODD_TEXT = [
    "[/x]",
    "[red]x[/]",
    "$a_{b^c$",
    "_x",
    "\\input{/etc/passwd}\n\\end{tabular}",
    "a|b\n# c",
    "<script>alert(1)</script>",
    "=HYPERLINK(1)",
    "\x1b]0;x\x07",
    "\udc80",
    "\u202e",
    "",
    "x" * 2000,
    "../../etc/passwd",
    "/etc/passwd",
    "\0",
    "${oc.env:HOME}",
    "²",
    "Area_²",
]
ODD_NUMBER = [0, -1, 1.5, -0.0, 2**53, 2**63, 10**400, 10**4000, 1e308, True, None, float("nan")]
texts = st.sampled_from(ODD_TEXT) | st.text(max_size=20)
leaves = texts | st.sampled_from(ODD_NUMBER)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*ODD_TEXT, "a", "name"]), inner),
    max_leaves=8,
)


def places(content, path=()):
    """Paths of all values within nested lists and mappings."""
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def mutated(content, data):
    """The same with a few values exchanged, removed, repeated or added."""
    content = json.loads(json.dumps(content))
    for _ in range(data.draw(st.integers(1, 4))):
        *path, last = data.draw(st.sampled_from([place for place in places(content) if place]))
        holder = content
        for key in path:
            holder = holder[key]
        kind = data.draw(st.sampled_from(["alike", "alike", "exchange", "remove", "repeat", "add"]))
        if kind == "alike" and isinstance(holder[last], str):
            holder[last] = data.draw(texts)
        elif kind == "alike" and isinstance(holder[last], (int, float)):
            holder[last] = data.draw(st.integers(0, 9) | st.sampled_from(ODD_NUMBER))
        elif kind == "exchange":
            holder[last] = data.draw(values)
        elif kind == "remove":
            del holder[last]
        elif kind == "repeat" and isinstance(holder, list):
            holder.insert(last, holder[last])
        elif isinstance(holder, dict):
            holder[data.draw(st.sampled_from(ODD_TEXT))] = data.draw(values)
        if not any(place for place in places(content) if place):
            break
    return content


def as_yaml(content):
    return yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")


def as_json(content):
    return json.dumps(content).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Runs of two folds and two seeds, one of which is damaged again and again."""
    root = tmp_path_factory.mktemp("fuzz") / "runs"
    folder = two_runs(root)
    changed(rooms={"Area_5/office_1": {"points": 8, "mIoU": 0.5, "OA": None}}, selection="last")(folder)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(["depth=14", "++conv.operator={a: 1}"]))
    for name, fold, seed in (("fold", 4, 0), ("seed", 5, 1)):
        make_run(root, name, [[1, 2], [3, 4]], fold=fold, depth=14, seed=seed)
    return root


FILES = {
    "metrics.json": as_json,
    "run.json": as_json,
    ".hydra/config.yaml": as_yaml,
    ".hydra/overrides.yaml": as_yaml,
}


def reported(root, whole):
    """Make the report, or all of it but the figures and files."""
    if whole:
        with contextlib.redirect_stdout(io.StringIO()):
            report(OmegaConf.create({"runs": str(root), "output": None}))
        return (root / "report.html").read_text(), (root / "report.md").read_text(), (root / "report.tex").read_text()
    left_out = LeftOut()
    runs, unfinished = find_runs(root, left_out)
    tables = [*comparisons(runs), *six_folds(runs)]
    write_page(root / "report.html", runs, unfinished, tables, {}, left_out)
    markdown, latex = (
        "".join(form(table) for table in tables) for form in (type(tables[0]).markdown, type(tables[0]).latex)
    )
    for table in tables:
        assert table.terminal().row_count == len(table.rows)
        assert table.csv()
    return (root / "report.html").read_text(), markdown, latex


def check(root, name, content, whole):
    path = root / "odd" / name
    sound = path.read_bytes()
    try:
        path.write_bytes(content)
        page, markdown, latex = reported(root, whole)
    except UserError as error:
        raise AssertionError(f"the sound runs were not reported: {error}") from error
    finally:
        path.write_bytes(sound)
    # The others are there, and nothing of this one is an instruction.
    assert all(f"<b>{other}</b>" in page for other in ("sound", "fold", "seed"))
    assert "| sound |" in markdown
    assert "<script>alert" not in page + markdown
    assert "\\input{" not in latex
    for form in (page, markdown, latex):
        assert "\x1b" not in form
        assert os.environ["HOME"] not in form.replace(str(root), "")


@pytest.mark.parametrize("whole", [False, True], ids=["tables", "whole"])
@pytest.mark.parametrize("name", FILES)
def test_odd_content_of_one_run_leaves_the_others_reported(root, name, whole):
    path = root / "odd" / name
    sound = yaml.safe_load(path.read_text())

    @settings(
        max_examples=WHOLE_REPORTS if whole else EXAMPLES, deadline=30_000, suppress_health_check=list(HealthCheck)
    )
    @given(data=st.data())
    def feed(data):
        check(root, name, FILES[name](mutated(sound, data)), whole)

    feed()
