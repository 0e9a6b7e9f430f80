"""Code in the documentation runs, and the files and tests that it names exist."""

import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/*.md"))
# Files that a reader is asked to write.
TO_BE_WRITTEN = {"conf/conv/mean.yaml", "conf/graph/radius.yaml"}
FOLDERS = "|".join(path.name for path in sorted((ROOT / "deepgcn_seg").iterdir()) if (path / "__init__.py").exists())
# A path from the root of the checkout, or a module or folder of the package: `model/graph.py`, `ops/cpu/`. `data/s3dis/`
# is a folder of the user's.
NAMED_PATH = re.compile(
    rf"(?<![\w/.:-])(?:(?:deepgcn_seg|conf|tools|docs|docker|tests)/[\w./-]*\w/?|(?:{FOLDERS})/(?:[\w/]+\.py|(?<!data/)(?:\w+/)*(?=`)))"
)
NAMED_TEST = re.compile(r"(?:(test_\w+\.py)::)?\b(test_\w+)\b(?!\.py)")


def blocks(name):
    """The blocks of Python code on a page, also those that belong to an entry of a list and so are indented."""
    return [textwrap.dedent(code) for code in re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S)]


@pytest.mark.parametrize(
    "code", blocks("docs/model.md"), ids=["use", "second derivatives", "own convolution", "own graph", "own network"]
)
def test_code_of_the_model_page(code):
    exec(compile(code, "docs/model.md", "exec"), {})


@pytest.mark.parametrize("code", blocks("docs/pyg.md"), ids=["network", "block"])
def test_code_of_the_page_for_torch_geometric(code):
    names = {}
    exec(compile(code, "docs/pyg.md", "exec"), names)
    assert names["logits" if "logits" in names else "out"].shape in {(500, 13), (100, 64)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_section_and_no_paragraph_stands_twice(page):
    paragraphs = [text for text in page.read_text().split("\n\n") if text.startswith("#") or len(text) > 120]
    assert sorted(paragraphs) == sorted(set(paragraphs))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_documentation_lead_to_a_heading(page):
    for target, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        text = (page.parent / target).read_text() if target else page.read_text()
        headings = [re.sub(r"[^\w -]", "", line).strip().lower() for line in re.findall(r"^#+ (.*)$", text, re.M)]
        assert heading in [line.replace(" ", "-") for line in headings], f"{page.name}: {target}#{heading}"


def named_paths(text):
    return set(NAMED_PATH.findall(text)) - TO_BE_WRITTEN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_is_named_exists(page):
    for path in named_paths(page.read_text()):
        assert (ROOT / path).exists() or (ROOT / "deepgcn_seg" / path).exists(), f"{page.name}: {path}"


def test_paths_are_found_in_prose_and_commands():
    text = "See `deepgcn_seg/model/graph.py`, `ops/cpu/`, conf/train.yaml. Run python tools/train.py or `tests/test_x.py::test_y`."
    assert named_paths(text) == {
        "deepgcn_seg/model/graph.py", "ops/cpu/", "conf/train.yaml", "tools/train.py", "tests/test_x.py"
    }  # fmt: skip
    assert not named_paths("https://host/docs/model.md, `data/s3dis/`, outputs/docs/a.py and RUN_DIR/conf/x.yaml")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_exists(page):
    files = {
        path.name: re.findall(r"^ *def (test_\w+)", path.read_text(), re.M) for path in ROOT.glob("tests/test_*.py")
    }
    for file, name in NAMED_TEST.findall(page.read_text()):
        assert not file or file in files, f"{page.name}: {file}"
        where = [file] if file else list(files)
        assert any(name in files[other] for other in where), f"{page.name}: {file}::{name}"
    for file in re.findall(r"\b(test_\w+\.py)\b", page.read_text()):
        assert file in files, f"{page.name}: {file}"


def test_every_group_choice_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    for group in ("backbone", "conv", "graph", "data", "recipe", "protocol", "experiment"):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            if path.stem != "checkpoint":
                assert f"`{path.stem}`" in text or f"={path.stem}" in text, f"{group}={path.stem}"
