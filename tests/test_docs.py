"""Code in the documentation runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def blocks(name):
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S)


@pytest.mark.parametrize("code", blocks("docs/model.md"), ids=["use", "own convolution"])
def test_code_of_the_model_page(code):
    exec(compile(code, "docs/model.md", "exec"), {})


def test_links_and_pictures_exist():
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_group_choice_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    for group in ("backbone", "conv", "graph", "data", "recipe", "protocol", "experiment"):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            if path.stem != "checkpoint":
                assert f"`{path.stem}`" in text or f"={path.stem}" in text, f"{group}={path.stem}"
