"""The distributions: built from a checkout, and used from another folder without it."""

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

pytest.importorskip("setuptools")
ROOT = Path(__file__).parent.parent
TINY = [
    "depth=2", "channels=8", "k=4", "points=64", "batch_size=2", "max_steps=2", "device=cpu", "protocol=recut",
    "data.store.rooms_per_area=1", "data.store.density=60", "model.fusion_channels=16", "model.head_channels=[16,8]",
    "data.grid.min_points=20",
]  # fmt: skip


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a Git checkout")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The sdist and the wheel that is made of it."""
    source, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    build(source, "build_sdist", out)
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(out / "unpacked", filter="data")
    (unpacked,) = (out / "unpacked").iterdir()
    build(unpacked, "build_wheel", out)
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


def build(source, what, out):
    code = f"import sys; from setuptools import build_meta; build_meta.{what}(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(out)], cwd=source, check=True, capture_output=True)


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory):
    """A folder with the wheel's content, as pip puts it into site-packages."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(distributions[1]) as archive:
        archive.extractall(folder)
    return folder


def run(installed, folder, *arguments, check=True):
    done = subprocess.run(
        [sys.executable, "-m", "deepgcn_seg", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_a_distribution_has_the_code_the_settings_and_nothing_else(distributions):
    with zipfile.ZipFile(distributions[1]) as archive:
        names = archive.namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    code = {name for name in tracked() if name.startswith("deepgcn_seg/")}
    settings = {f"deepgcn_seg/{name}" for name in tracked() if name.startswith("conf/")}
    assert inside == code | settings
    (metadata,) = (name for name in names if name.endswith("entry_points.txt"))
    with zipfile.ZipFile(distributions[1]) as archive:
        assert "deepgcn-seg = deepgcn_seg.__main__:main" in archive.read(metadata).decode()


@pytest.mark.slow
def test_commands_run_from_another_folder(installed, tmp_path):
    run(installed, tmp_path, "train", *TINY, "hydra.run.dir=run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["command"].startswith("deepgcn-seg train depth=2")
    assert facts["git"] is None
    done = run(installed, tmp_path, "evaluate", "checkpoint=run", "protocol=recut", "hydra.run.dir=scored")
    assert "mIoU" in done.stdout
    # Own settings beside those of the package.
    (tmp_path / "own" / "conv").mkdir(parents=True)
    settings = yaml.safe_load((ROOT / "conf" / "conv" / "mr.yaml").read_text())
    (tmp_path / "own" / "conv" / "mine.yaml").write_text(yaml.safe_dump(settings))
    done = run(installed, tmp_path, "train", "--config-dir=own", "conv=mine", "--cfg", "job")
    assert settings["_target_"] in done.stdout


@pytest.mark.slow
def test_help_and_errors_name_the_installed_command(installed, tmp_path):
    assert "deepgcn-seg train backbone=densegcn" in run(installed, tmp_path, "train", "--help").stdout
    done = run(installed, tmp_path, "train", "data=s3dis", "data.root=/nowhere", check=False)
    assert done.returncode == 2
    assert done.stderr == "error: data.root=/nowhere: no such folder; make a room store with deepgcn-seg prepare\n"


def test_the_commands_are_those_of_tools():
    from deepgcn_seg.__main__ import COMMANDS

    assert set(COMMANDS) == {path.stem for path in (ROOT / "tools").glob("*.py")}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 0, "Usage: deepgcn-seg COMMAND"),
        (["--help"], 0, "  train      train a network"),
        (["trian"], 1, "error: trian: no such command; there are train, evaluate"),
    ],
)
def test_the_list_of_commands_is_quick(arguments, status, message):
    code = "import runpy, sys; runpy.run_module('deepgcn_seg', run_name='__main__'); assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert message in done.stdout + done.stderr
