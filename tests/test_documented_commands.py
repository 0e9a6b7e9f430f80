"""Every command of the README and of docs/ runs as it stands, on tiny data."""

import importlib.util
import re
import shlex
import shutil

import pytest
import torch
from test_commands import ROOT, TINY, run
from test_labelled_scans import classes, write_scans
from test_predict import scan_file
from test_scanners import ptx

from deepgcn_seg.data.build_store import prepare
from deepgcn_seg.data.export_hdf5 import export_blocks

PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^    (?:\w+=\S+ )*python tools/(\w+)\.py(.*?)(?:  +\S.*)?$", re.M)
# Sections whose commands are run in order, by tests/test_newcomer.py.
IN_ORDER = r"## (?:Your own rooms|ScanNet|6\. Fine-tune on three classes of your own)\n.*?(?:\n(?=## )|\Z)"
# What makes a command small; it counts because it comes last.
SMALL = {
    "train": [*(t for t in TINY if not t.startswith(("data.store", "recipe"))), "points=256", "max_steps=1"],
    "benchmark": [
        "depth=3", "channels=8", "k=4", "points=128", "batch_sizes=[1]", "repeats=1", "rows=2000", "batches=1",
        "sizes=[[2,64,1,4,8]]", "axes.depth=[2]", "~axes.points", "~axes.batch", "~axes.k",
        "gpu.parts=[search,training]", "gpu.sizes=[12]", "gpu.blocks=2", "gpu.depth=3", "gpu.clouds=[128]", "gpu.minutes=0.0001",
    ],
}  # fmt: skip


def commands():
    """(tool, arguments) of every command of the pages, once each; some sections are run in order by tests of their own."""
    texts = [re.sub(IN_ORDER, "", (ROOT / page).read_text(), flags=re.S) for page in PAGES]
    found = [(match[1], match[2].strip()) for text in texts for match in COMMAND.finditer(text)]
    # "..." stands for any settings: that line is about how processes are started.
    # Benchmarks that differ only in what is made small are one command here: each starts many processes.
    unique = {
        (tool, *small(tool, arguments, "folder")): (tool, arguments)
        for tool, arguments in found
        if "..." not in arguments
    }
    return sorted(unique.values())


@pytest.fixture(scope="session")
def place(tmp_path_factory, store, raw_rooms):
    """A checkout as it is after `make train` and the commands that prepare, with everything tiny."""
    root = tmp_path_factory.mktemp("documented")
    for name in ("tools", "conf"):
        shutil.copytree(ROOT / name, root / name)
    synthetic = root / "conf" / "data" / "synthetic.yaml"
    synthetic.write_text(
        synthetic.read_text()
        .replace("rooms_per_area: 6", "rooms_per_area: 1")
        .replace("density: 1000 ", "density: 60 ")
    )
    for name in ("data/s3dis", "STORE"):
        shutil.copytree(store.root, root / name)
    (root / "Stanford3dDataset_v1.2_Aligned_Version").symlink_to(raw_rooms)
    export_blocks(store, root / "indoor3d_sem_seg_hdf5_data")
    prepare(classes(write_scans(root / "scans")), root / "data" / "scans")
    scan_file(root / "scan.ply")
    sample = root / "data" / "synthetic" / "v1-rooms6-density1000-seed0" / "raw" / "Area_5" / "office_1"
    sample.mkdir(parents=True)
    shutil.copy(raw_rooms / "Area_5" / "office_1" / "office_1.txt", sample)
    (root / "mine.py").write_text(
        re.search(r"```python\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), re.S)[1]
    )
    run("train", *TINY, f"data.root={root}/tiny", f"hydra.run.dir={root}/RUN_DIR", "max_steps=1")
    # An average is of two networks with different weights.
    run("train", *TINY, f"data.root={root}/tiny", f"hydra.run.dir={root}/other", "max_steps=1", "seed=1")
    shutil.copy(root / "other" / "checkpoints" / "last.ckpt", root / "FILE")
    for name in ("RUN_A", "RUN_B", "outputs/scans"):
        shutil.copytree(root / "RUN_DIR", root / name)
    (root / "building.ptx").write_text(ptx([f"{x / 6} {y / 6} 1 0.5" for x in range(12) for y in range(12)]))
    if importlib.util.find_spec("pye57"):
        run("predict", f"checkpoint={root}/RUN_DIR", f"input={root}/building.ptx", f"output={root}/building.e57",
            f"hydra.run.dir={root}/log")  # fmt: skip
    for name in ("connection", "folds", "mean", "recipes", "losses", "depth", "published"):
        shutil.copytree(root / "RUN_DIR", root / "outputs" / name / "0_resgcn2")
    official = torch.load(ROOT / "tests" / "fixtures" / "res_edge_7.pt", weights_only=True)
    torch.save({"state_dict": official["state_dict"]}, root / "ckpt_best.pth")
    run("convert", f"checkpoint={root}/ckpt_best.pth", f"output={root}/resgcn28.ckpt", f"hydra.run.dir={root}/log")
    return root


def small(tool, arguments, folder):
    """The command's arguments, and after them what makes it small and puts its output elsewhere."""
    given = shlex.split(arguments)
    if tool == "train" and not any(a.startswith(("--config-dir", "resume=")) for a in given):
        swept = {a.split("=")[0] for a in given if "," in a.split("=", 1)[-1] and not a.endswith("]")}
        given = [a for a in given if not a.startswith(("devices=", "hydra.sweep.dir="))]
        if "-m" in given:
            # Two of the values that a setting is swept over.
            given = [",".join(a.split(",")[:2]) if a.split("=")[0] in swept else a for a in given]
        given += [a for a in SMALL["train"] if a.split("=")[0] not in swept]
        given.append(f"hydra.sweep.dir={folder}")
        if any(a.startswith(("data=s3dis", "data=folder")) for a in given):
            given.append("data.grid.min_points=20")
        if "weights=ckpt_best.pth" in given:
            given += ["depth=7", "channels=24", "model.fusion_channels=1024", "model.head_channels=[512,256]"]
        if "hydra/launcher=joblib" in given:
            given.append("hydra.launcher.n_jobs=2")
    if tool == "benchmark":
        replaced = {a.split("=")[0] for a in SMALL["benchmark"]}
        given = [a for a in given if a.split("=")[0] not in replaced] + SMALL["benchmark"]
    return given


@pytest.mark.slow
@pytest.mark.parametrize(("tool", "arguments"), commands())
def test_documented_command(tool, arguments, place, tmp_path):
    if "submitit_slurm" in arguments:
        done = run(tool, "hydra/launcher=submitit_slurm", "--cfg", "hydra")
        assert "SlurmLauncher" in done.stdout
        return
    if ".e57" in arguments:
        pytest.importorskip("pye57")
    if tool == "export" and ".onnx" in arguments:
        pytest.importorskip("onnxruntime")
    if "assembly" in arguments or "measure=pyg" in arguments:
        pytest.importorskip("torch_cluster", reason="what torch_geometric's own search needs")
    given = small(tool, arguments, tmp_path)
    if "export=" in arguments and tool == "prepare":
        # The folder of that name is what other commands read.
        given.append(f"export={tmp_path}")
    done = run(tool, *given, check=False, env={"PYTHONPATH": str(place)}, folder=place)
    if "check=true" in arguments:
        # Tiny data rightly lack most rooms.
        assert "of the 272 rooms of S3DIS are missing" in done.stderr
    else:
        assert done.returncode == 0, done.stderr[-3000:]


def test_every_tool_is_documented():
    assert len(commands()) > 30
    assert {tool for tool, _ in commands()} == {path.stem for path in (ROOT / "tools").glob("*.py")}
