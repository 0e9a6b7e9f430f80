"""docs/notebook.ipynb: its cells run as they are, and what it shows is what its code gave."""

import io
import json
import os
import subprocess
import sys

import pytest
from test_commands import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
CODE = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
# As a kernel does: one cell after the other, in one namespace, while an event loop runs.
KERNEL = """
import asyncio, json, sys

async def kernel(cells):
    space = {}
    for cell in cells:
        exec(compile(cell, "cell", "exec"), space)
        await asyncio.sleep(0)
    return space

space = asyncio.run(kernel(json.load(sys.stdin)))
labelled = space["labelled"][0]
print(json.dumps({
    "labelled": labelled.is_file() and labelled.with_suffix(".png").is_file(),
    "epochs": [row["epoch"] for row in space["run"].history],
    "mIoU": space["scores"]["mIoU"],
    "points": len(space["found"].label) == len(space["points"]),
}))
"""


def test_the_cells_run_one_after_the_other_in_a_running_event_loop(tmp_path):
    cells = ["".join(cell["source"]) for cell in CODE]
    # The steps are what takes time.
    cells[1] = cells[1].replace('"points=256"', '"points=64", "max_steps=4"').replace("density=200", "density=60")
    environment = {**os.environ, "MPLBACKEND": "agg", "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    here = tmp_path / "here"
    here.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KERNEL], input=json.dumps(cells), capture_output=True, text=True, cwd=here,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["labelled"] and found["points"]
    assert found["epochs"] == [1]
    assert 0 <= found["mIoU"] <= 1
    # All that it writes lies in a temporary folder.
    assert not list(here.iterdir())


def outputs(kind):
    return [output for cell in CODE for output in cell["outputs"] if kind in output.get("data", {})]


def test_the_notebook_is_executed_in_order_without_errors_and_small():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert not [output for cell in CODE for output in cell["outputs"] if output["output_type"] == "error"]
    # The curves and the labelled room.
    assert len(outputs("image/png")) == 2
    assert any("Training" in "".join(output["data"]["text/html"]) for output in outputs("text/html"))
    assert NOTEBOOK.stat().st_size < 300_000


class Displayed:
    """What IPython's ``display`` returns, with all states that were shown."""

    def __init__(self, shown):
        self.shown = [shown]

    def update(self, shown):
        self.shown.append(shown)


class ZMQInteractiveShell:
    """Rich knows a notebook by the name of this class."""


@pytest.fixture
def cell(monkeypatch):
    """The displays of a notebook's cell, in a process that is a kernel as far as Rich and IPython say."""
    import builtins
    from types import SimpleNamespace

    from deepgcn_seg import progress

    displays = []
    display = lambda shown, display_id: displays.append(Displayed(shown)) or displays[-1]
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr(progress, "CELL_INTERVAL", 0)
    return displays


def test_progress_in_a_notebook_is_one_bar_that_moves(cell):
    from rich.console import Console

    from deepgcn_seg.progress import Meter, track

    with Meter("Training", 3) as meter:
        for loss in (3, 2, 1):
            # A validation within: its bar would remain in the cell.
            assert list(track("ab", 2, "Scoring")) == ["a", "b"]
            meter.advance(f"loss {loss}")
    (bar,) = cell
    texts = []
    for table in bar.shown:
        console = Console(force_jupyter=False, width=120, file=io.StringIO())
        with console.capture() as capture:
            console.print(table)
        texts.append(capture.get())
    assert ["0/3" in text for text in texts][:2] == [True, False]
    assert "3/3" in texts[-1] and "loss 1" in texts[-1]
    assert list(track("a", 1, "Scoring")) == ["a"]
    assert len(cell) == 2
