"""The distributions: built from a checkout, and used from another folder without it."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from deepgcn_seg.__main__ import COMMANDS

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
    # What an earlier build left of a module that is gone.
    stale = unpacked / "build" / "lib" / "deepgcn_seg" / "gone.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
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
    raw = next((tmp_path / "data" / "synthetic").glob("*/raw"))
    done = run(installed, tmp_path, "prepare", f"source={raw}", "data.root=prepared")
    assert "rooms in 6 areas are ready" in done.stderr
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


@pytest.mark.parametrize("left", ["build/lib/deepgcn_seg/gone.py", "dist/a.whl"])
def test_what_a_build_leaves_is_not_committed(left):
    tracked()
    assert subprocess.run(["git", "check-ignore", "-q", left], cwd=ROOT, check=False).returncode == 0


def test_the_commands_are_those_of_tools():
    assert set(COMMANDS) == {path.stem for path in (ROOT / "tools").glob("*.py")}


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"info"}))
def test_a_command_is_the_function_that_its_tool_runs(name):
    task = getattr(importlib.import_module(f"deepgcn_seg.commands.{name}"), name)
    assert task.__module__ == f"deepgcn_seg.commands.{name}"
    assert re.search(rf"command\({name}, ", (ROOT / "tools" / f"{name}.py").read_text())


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


@pytest.fixture
def tab(tmp_path):
    """What bash offers when Tab is pressed after a line, once the README's command was typed."""
    typed = next(line for line in (ROOT / "README.md").read_text().split("`") if "deepgcn-seg -sc" in line)
    program = tmp_path / "bin" / "deepgcn-seg"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m deepgcn_seg "$@"\n')
    program.chmod(0o755)

    def offered(line, install=typed):
        press = f"""
        {install}
        COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_WORDS=({line}) COMP_CWORD={len(line.split(" ")) - 1}
        $(complete -p deepgcn-seg | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(
            ["bash", "-c", press],
            cwd=tmp_path,
            env={"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.split()

    return offered


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_bash_completes_commands_and_settings(tab):
    assert tab("deepgcn-seg tr") == ["train"]
    assert tab("deepgcn-seg ", 'eval "$(deepgcn-seg train -sc install=bash)"') == list(COMMANDS)
    assert tab("deepgcn-seg train depth=") == ["depth=28"]
    # A setting of another command than the one that every installation is made with.
    assert tab("deepgcn-seg predict chec") == ["checkpoint="]
    # The files of this folder.
    assert tab("deepgcn-seg info ") == ["bin"]
    by_script = subprocess.run(
        [sys.executable, "tools/train.py", "-sc", "query=bash"],
        cwd=ROOT,
        env={**os.environ, "COMP_LINE": "python tools/train.py k=4 backbone="},
        capture_output=True,
        text=True,
        check=True,
    )
    choices = tab("deepgcn-seg train k=4 backbone=")
    assert "backbone=densegcn" in choices and choices == by_script.stdout.split()


def test_every_requirement_of_make_and_of_the_images_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plain = lambda requirement: re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-")
    pinned = {plain(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1].isalnum()}
    needed = {plain(each) for part in project["optional-dependencies"].values() for each in part}
    # PyTorch says which setuptools it can be used with.
    assert {*map(plain, project["dependencies"]), *needed} - {"deepgcn-seg", "setuptools"} <= pinned


@pytest.mark.parametrize(
    ("system", "machine", "installs"),
    [("Linux", "x86_64", True), ("Linux", "aarch64", False), ("Darwin", "arm64", True)],
)
def test_pye57_is_installed_where_it_has_a_wheel(system, machine, installs):
    """`make test` and the images need no compiler for it."""
    requirements = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pye57,) = map(requirements.Requirement, project["optional-dependencies"]["e57"])
    assert pye57.marker.evaluate({"platform_system": system, "platform_machine": machine}) == installs


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cpu"])
def test_images_have_what_the_examples_need(name):
    text = (ROOT / "docker" / name).read_text()
    (extras,) = re.findall(r"pip install .*'\.\[(.*)\]'", text)
    assert {"e57", "export", "launchers"} <= set(extras.split(","))


def test_a_service_without_a_gpu_has_the_image_without_cuda():
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    cpu = services["cpu"]
    assert "deploy" in services["train"] and "deploy" not in cpu
    assert cpu["build"]["dockerfile"] == "docker/Dockerfile.cpu" and cpu["image"] != services["train"]["image"]
    assert cpu["volumes"] == services["train"]["volumes"]


@pytest.mark.parametrize(
    ("python", "installs"),
    [
        # As images of python have it, as Debian with python3-minimal, and a system without Python.
        ("#!/bin/sh\necho {headers}\n", False),
        ("#!/bin/sh\necho No module named ensurepip >&2\nexit 1\n", True),
        (None, True),
    ],
)
def test_the_cpu_image_installs_venv_and_headers_where_its_base_has_none(tmp_path, python, installs):
    text = (ROOT / "docker" / "Dockerfile.cpu").read_text()
    step = re.search(r"^    && (\{ test -e .*?; \}) \\$", text, re.DOTALL | re.MULTILINE)[1]
    (tmp_path / "Python.h").touch()
    programs = {"apt-get": f'#!/bin/sh\necho "$@" > {tmp_path}/installed\n'}
    if python is not None:
        programs["python3"] = python.format(headers=tmp_path)
    for name, script in programs.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    subprocess.run(["/bin/sh", "-c", step], env={"PATH": str(tmp_path)}, check=True, capture_output=True)
    installed = tmp_path / "installed"
    assert installed.exists() == installs
    assert not installs or {"python3-dev", "python3-venv"} <= set(installed.read_text().split())
