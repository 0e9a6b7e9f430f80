"""What docs/reliability.md promises, tried: kills, full disks, damage, and running the same again."""

import errno
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
import torch
import yaml
from forked import Forked
from limited_memory import NEEDS_LIMIT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_commands import ROOT, TINY, data_root, run, trained  # noqa: F401
from test_labelled_scans import classes, write_scans

from deepgcn_seg import memory
from deepgcn_seg.data.build_store import prepare
from deepgcn_seg.data.dataset import blocks_per_pass
from deepgcn_seg.data.store import RoomStore
from deepgcn_seg.errors import UserError
from deepgcn_seg.evaluation.history import read_history
from deepgcn_seg.files import replacing
from deepgcn_seg.model.checkpoint import read_checkpoint
from deepgcn_seg.training.guards import advice_on_memory

# Time and memory are measured anew in every process.
MEASURED = ("2_training/points_per_second", "2_training/peak_memory_mb")


def last(folder):
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def curves(folder):
    events = EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    names = [n for n in events.Tags()["scalars"] if n not in MEASURED and not n.startswith("hparam")]
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in names}


def histories(folder):
    times = ("seconds", "peak_memory_mb")
    return [
        {name: value for name, value in row.items() if name not in times}
        for row in read_history(folder / "history.csv")
    ]


def same_weights(one, other):
    one, other = one["model"], other["model"]
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def start(*arguments, **settings):
    command = [sys.executable, str(ROOT / "tools" / "train.py"), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **settings)


LONG = [*TINY, "max_steps=60", "epochs=1", "save_every=1", "validate_every=1"]


@pytest.fixture(scope="module")
def left_alone(trained, data_root, tmp_path_factory):  # noqa: F811
    """A run that nobody kills, and the seconds it takes once its data is there."""
    folder = tmp_path_factory.mktemp("left") / "alone"
    started = time.monotonic()
    run("train", *LONG, f"data.root={data_root}", f"hydra.run.dir={folder}")
    return folder, time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_instants_lose_nothing(left_alone, data_root, tmp_path, seed):  # noqa: F811
    """Each time the same command goes on; in the end weights, metrics and curves are those of a run
    that was left alone, to the last bit."""
    alone, whole = left_alone
    long = [*LONG, f"data.root={data_root}"]
    folder, dice, kills, written = tmp_path / "killed", random.Random(seed), 0, 0
    while kills < 5 or (not written and kills < 25):
        command = [str(ROOT / "tools" / "train.py"), *long, f"hydra.run.dir={folder}", "resume=auto"]
        job = Forked(command, ROOT, os.environ)
        try:
            # Mostly while it trains and writes; sometimes while it starts.
            job.wait(dice.uniform(0.3, 0.9) * whole)
        except subprocess.TimeoutExpired:
            job.kill()
        done = job.completed()
        if done.returncode == -signal.SIGKILL:
            kills += 1
        else:
            assert done.returncode == 0, done.stderr
            # Finished before so many kills: what is killed next is a fresh run in the place of this one.
            assert same_weights(last(alone), last(folder))
            shutil.rmtree(folder)
        for name in ("last.ckpt", "best.ckpt"):
            if (folder / "checkpoints" / name).exists():
                read_checkpoint(folder / "checkpoints" / name)
                written += 1
    run("train", *long, f"hydra.run.dir={folder}", "resume=auto")
    assert written > 0
    assert same_weights(last(alone), last(folder))
    assert curves(alone) == curves(folder)
    assert histories(alone) == histories(folder)
    entries = [json.loads((path / "metrics.json").read_text())["test"] for path in (alone, folder)]
    assert entries[0]["confusion"] == entries[1]["confusion"]
    print(f"{kills} kills survived, {written} checkpoints read back after them")


def test_a_run_that_scores_again_shows_it_once(trained, tmp_path):  # noqa: F811
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    before = curves(folder)
    run("train", f"resume={folder}")
    assert curves(folder) == before
    assert len(before["4_test/mIoU"]) == 1


def test_a_full_disk_leaves_the_last_good_checkpoint(trained, data_root, tmp_path):  # noqa: F811
    """Writes beyond a limit fail, as on a full disk, with part of the file written."""
    folder = tmp_path / "run"
    run("train", *TINY, f"data.root={data_root}", f"hydra.run.dir={folder}", "max_steps=2")
    size = (folder / "checkpoints" / "last.ckpt").stat().st_size
    before = (folder / "checkpoints" / "last.ckpt").read_bytes()

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    job = start(f"resume={folder}", "max_steps=6", preexec_fn=limit)
    text = job.communicate(timeout=120)[1]
    assert job.returncode == 2, text
    assert "cannot write" in text and "the previous checkpoint is intact" in text
    assert "Traceback" not in text
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == before
    assert not list((folder / "checkpoints").glob("*.tmp"))
    run("train", f"resume={folder}", "max_steps=6")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_file_that_cannot_be_finished_is_named_and_gone(tmp_path, number):
    with pytest.raises(OSError, match=os.strerror(number)) as caught, replacing(tmp_path / "a.json"):
        raise OSError(number, os.strerror(number))
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "a.json"))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_met_by_the_event_writer(trained, data_root, tmp_path):  # noqa: F811
    """TensorBoard writes in a thread of its own: its error is one line too, and the run is gone on with."""
    folder = tmp_path / "run"
    tiny = [*TINY, "save_every=100", f"data.root={data_root}", f"hydra.run.dir={folder}"]
    # Room for the config, not for the events of the validation, which come before the first checkpoint.
    size = 1000 + max(path.stat().st_size for path in [*trained[0].glob(".hydra/*"), trained[0] / "run.json"])
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    job = start(*tiny, preexec_fn=limit)
    text = job.communicate(timeout=120)[1]
    assert job.returncode == 2, text
    assert "Traceback" not in text and "Logging error" not in text
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and f"cannot write TensorBoard's events to {folder}" in errors[0]
    assert not list(folder.rglob("*.tmp"))
    assert all(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    run("train", *tiny, "resume=auto")
    assert curves(folder) == curves(trained[0])
    assert not (folder / "failed.txt").exists()


@pytest.mark.parametrize("damage", ["truncated", "foreign", "of another network", "missing"])
def test_a_damaged_checkpoint_is_one_line(trained, tmp_path, damage):  # noqa: F811
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    path = folder / "checkpoints" / "last.ckpt"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "foreign":
        torch.save({"epoch": 3, "state_dict": {}}, path)
    elif damage == "of another network":
        content = torch.load(path, weights_only=True)
        content["training"]["model"].popitem()
        torch.save(content, path)
    else:
        path.unlink()
    done = run("train", f"resume={folder}", "max_steps=9", check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "last.ckpt" in errors[0]
    assert "Traceback" not in done.stderr


@pytest.fixture
def prepared(raw_rooms, tmp_path):
    return prepare(raw_rooms, tmp_path / "store")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["vanished", "truncated", "changed"])
def test_damaged_rooms_are_one_line_that_names_the_file(prepared, tmp_path, damage, workers):
    for room in prepared.rooms:
        if damage == "vanished":
            # The store was read when training began; a room goes away afterwards.
            room.path.unlink() if room.area == "Area_1" else None
        elif damage == "truncated":
            room.path.write_bytes(room.path.read_bytes()[:2000])
        else:
            with h5py.File(room.path) as file:
                at = file["xyz"].id.get_offset()
            content = bytearray(room.path.read_bytes())
            content[at + 40 : at + 44] = b"\x00\x01\x02\x03"
            room.path.write_bytes(content)
    tiny = [t for t in TINY if not t.startswith("data.store")]
    if damage == "vanished":
        entries = list(prepared.rooms)
        with pytest.raises(UserError, match=r"Area_1/.*\.h5"):
            RoomStore(prepared.root).open(entries[0])
        return
    done = run(
        "train", *tiny, "data=s3dis", f"data.root={prepared.root}", f"workers={workers}",
        f"hydra.run.dir={tmp_path}/run", check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and ".h5" in errors[0] and str(prepared.root) in errors[0]
    assert "Traceback" not in done.stderr


def test_a_directory_that_cannot_be_written_is_one_line(data_root):  # noqa: F811
    done = run("train", *TINY, f"data.root={data_root}", "hydra.run.dir=/dev/null/none/run", check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: /dev/null/none")


def test_losses_that_are_not_finite_stop_with_the_batch_saved(data_root, tmp_path):  # noqa: F811
    done = run(
        "train", *TINY, f"data.root={data_root}", f"hydra.run.dir={tmp_path}", "max_steps=40",
        "recipe.optimizer.lr=1e38", "epochs=20", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("error: step ") and "Area_" in error and "lower the rate" in error
    batch = torch.load(tmp_path / "bad_batch.pt", weights_only=True)
    assert batch["points"][0].shape == (4, 64, 9)
    assert len(batch["blocks"]) == 4
    assert "Step skipped, 1 so far" in done.stderr


@NEEDS_LIMIT
def test_out_of_memory_says_what_would_help(data_root, tmp_path):  # noqa: F811
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))

    # More than memory holds before there is much to compute.
    wide = ["channels=16", "model.fusion_channels=16384", "points=2048", "batch_size=64", "data.grid.min_points=1"]
    job = start(*TINY, *wide, f"data.root={data_root}", f"hydra.run.dir={tmp_path}", preexec_fn=limit)
    text = job.communicate(timeout=240)[1]
    assert job.returncode == 2, text[-2000:]
    error = text.strip().splitlines()[-1]
    assert error.startswith("error: out of memory at step 1, 64 blocks of 2048 points")
    assert "accumulate=2" in error and "GB of activations" in error and "backbone=revgcn" in error


@pytest.mark.parametrize(
    ("message", "lacks"),
    [
        ("CUDA error: out of memory", True),
        ("Triton Error [CUDA]: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_errors_of_too_little_memory_are_known_by_what_they_say(message, lacks):
    assert memory.is_out_of_memory(RuntimeError(message)) == lacks


@pytest.mark.parametrize(
    ("blocks", "accumulate", "advice"),
    [(8, 1, "accumulate=2 (1/2 of"), (9, 2, "accumulate=6 (1/3 of"), (7, 1, "accumulate=7 (1/7 of"), (1, 4, "points=32 (1/2 of")],
)  # fmt: skip
def test_passes_that_are_advised_share_the_blocks_equally(blocks, accumulate, advice):
    with pytest.raises(UserError, match=re.escape(advice)):
        with advice_on_memory(torch.nn.Linear(4, 4), 1, blocks, 64, accumulate):
            raise MemoryError
    if "accumulate" in advice:
        assert blocks_per_pass(blocks * accumulate, 1, int(re.findall(r"accumulate=(\d+)", advice)[0])) >= 1


def test_a_run_can_be_repeated_from_what_it_left(trained, tmp_path):  # noqa: F811
    content = json.loads((trained[0] / "run.json").read_text())
    assert content["command"].startswith("python")
    assert set(content) == {"command", "git", "versions", "hardware", "settings"}
    assert content["git"] is None or len(content["git"]["commit"]) == 40
    # The stored config says everything.
    run(
        "train",
        f"--config-dir={trained[0]}/.hydra",
        "--config-name=config",
        f"hydra.run.dir={tmp_path}",
    )
    assert same_weights(last(trained[0]), last(tmp_path))


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=joblib"]], ids=["one by one", "joblib"])
def test_a_sweep_lists_what_failed_and_the_same_command_runs_what_is_missing(data_root, tmp_path, launcher):  # noqa: F811
    sweep = [
        "-m",
        *TINY,
        f"data.root={data_root}",
        f"hydra.sweep.dir={tmp_path}",
        "max_steps=1",
        *launcher,
        "k=4,5000,3",
    ]
    done = run("train", *sweep, check=False)
    assert done.returncode == 2
    assert "1 of 3 jobs failed" in done.stderr
    assert "1_resgcn2: k=5000: must be at most points=64" in done.stderr
    metrics = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/metrics.json")}
    assert len(metrics) == 2
    # In TensorBoard there is no entry of the run that failed.
    assert {path.parent.name for path in tmp_path.glob("*/*tfevents*")} == {path.parent.name for path in metrics}
    # Some ran before settings were renamed.
    for path in tmp_path.glob("*/run.json"):
        text = path.read_text().replace("model.recompute", "model.checkpoint")
        path.write_text(text.replace('"graph.name": "dynamic"', '"graph.dynamic": "True"'))
    # One job is lost, and the impossible one is corrected.
    lost = next(iter(metrics))
    shutil.rmtree(lost.parent)
    done = run("train", *[part.replace("5000", "5") for part in sweep])
    assert done.stderr.count("finished before") == (1 if not launcher else done.stderr.count("finished before"))
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/metrics.json")}
    assert len(after) == 3
    assert all(after[path] == metrics[path] for path in metrics if path != lost)
    # Other settings in the same place are not mistaken for these, and change nothing there.
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*/*.*")}
    run("train", *[part.replace("5000", "6") for part in sweep])
    assert before == {path: path.read_bytes() for path in before}
    assert json.loads((tmp_path / "1_resgcn2_2" / "run.json").read_text())["settings"]["k"] == "6"


def test_an_extended_sweep_runs_what_is_new_and_nothing_twice(data_root, tmp_path):  # noqa: F811
    sweep = ["-m", *TINY, f"data.root={data_root}", f"hydra.sweep.dir={tmp_path}", "max_steps=1", "pages=false"]
    sweep += ["protocol=recut", "recipe.loss={focal:1},cross_entropy"]
    run("train", *sweep, "seed=0,1")
    record = (tmp_path / "multirun.yaml").read_text()
    run("train", *sweep, "seed=0,1")
    assert [path.name for path in tmp_path.glob("multirun*")] == ["multirun.yaml"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/metrics.json")}
    # The numbers of two of the new jobs are those of runs that are there. Job 5 cannot run.
    done = run("train", *sweep, "seed=0,1,-1", check=False)
    assert done.returncode == 2
    summary = done.stderr[done.stderr.index("2 of 6 jobs failed") :]
    assert "/2_resgcn2_2: seed=-1" in summary and "/5_resgcn2: seed=-1" in summary
    assert "a job whose own settings are the reason fails again" in summary
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/metrics.json")} == before
    assert (tmp_path / "multirun_1.yaml").read_text() == record != (tmp_path / "multirun.yaml").read_text()
    run("train", *sweep, "seed=0,1,2")
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/metrics.json")}
    assert before == {path: after[path] for path in before}
    found = {path.parent.name: json.loads(path.read_text())["settings"] for path in tmp_path.glob("*/run.json")}
    loss = lambda settings: "cross_entropy" if "recipe.loss" in settings else "focal"
    assert {name: (loss(settings), settings["seed"]) for name, settings in found.items()} == {
        "0_resgcn2": ("focal", "0"), "1_resgcn2": ("focal", "1"), "2_resgcn2_2": ("focal", "2"),
        "2_resgcn2": ("cross_entropy", "0"), "3_resgcn2": ("cross_entropy", "1"), "5_resgcn2": ("cross_entropy", "2"),
    }  # fmt: skip
    assert not list(tmp_path.glob("**/failed.txt"))


def test_an_unfinished_run_of_another_number_goes_on(data_root, tmp_path):  # noqa: F811
    sweep = ["-m", *TINY, f"data.root={data_root}", f"hydra.sweep.dir={tmp_path}", "max_steps=1", "pages=false"]
    run("train", *sweep, "seed=3,4")
    (tmp_path / "1_resgcn2" / "metrics.json").unlink()
    # They are the same runs, however they are done.
    done = run("train", *sweep, "seed=5,3,4", "device=cpu", "save_every=7", "model.recompute=true")
    assert done.stderr.count("finished before") == 1
    assert "all 1 steps of max_steps=1 are done" in done.stderr
    assert {path.parent.name for path in tmp_path.glob("*/metrics.json")} == {"0_resgcn2", "1_resgcn2", "0_resgcn2_2"}


def test_a_sweep_that_is_given_again_lists_its_own_failures(data_root, tmp_path):  # noqa: F811
    sweep = ["-m", *TINY, f"data.root={data_root}", f"hydra.sweep.dir={tmp_path}", "max_steps=1", "pages=false"]
    sweep += ["hydra.sweep.subdir=${job_directory:${hydra.job.num}}"]
    # The first job cannot run. When it is left out, that of its number has a directory already.
    assert "1 of 2 jobs failed" in run("train", *sweep, "seed=-1,3", check=False).stderr
    done = run("train", *sweep, "seed=3")
    assert "finished before" in done.stderr and "failed" not in done.stderr


def test_of_two_sweeps_at_once_each_lists_its_own_failures(data_root, tmp_path):  # noqa: F811
    sweep = ["-m", *TINY, f"data.root={data_root}", f"hydra.sweep.dir={tmp_path}", "pages=false", "protocol=recut"]
    first = Forked([str(ROOT / "tools" / "train.py"), *sweep, "max_steps=40", "seed=-1,1,2,3"], ROOT, os.environ)
    deadline = time.monotonic() + 120
    while not (tmp_path / "0_resgcn2" / "failed.txt").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # The directory of the first job is free. That of the second may be in use.
    second = run("train", *sweep, "max_steps=1", "seed=4,-2", check=False)
    told = first.completed(timeout=300).stderr
    assert second.returncode == 2 and "seed=-2" in second.stderr and "seed=-1" not in second.stderr
    assert "0_resgcn2: seed=-1" in told[told.index("jobs failed") :] and "seed=-2" not in told
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_damaged_run_of_a_sweep_is_told_and_not_replaced(data_root, tmp_path):  # noqa: F811
    sweep = ["-m", *TINY, f"data.root={data_root}", f"hydra.sweep.dir={tmp_path}", "max_steps=1", "pages=false"]
    run("train", *sweep, "seed=3")
    (tmp_path / "0_resgcn2" / "run.json").write_text("{")
    done = run("train", *sweep, "seed=3", check=False)
    assert done.returncode == 2 and f"{tmp_path}/0_resgcn2/run.json" in done.stderr
    assert not (tmp_path / "0_resgcn2_2").exists()


def test_jobs_that_differ_in_how_they_are_done_are_all_done(data_root, tmp_path):  # noqa: F811
    sweep = ["-m", *TINY, f"data.root={data_root}", f"hydra.sweep.dir={tmp_path}", "max_steps=1"]
    run("train", *sweep, "workers=0,1", "pages=false")
    assert len(list(tmp_path.glob("*/metrics.json"))) == 2
    # Their directories are now those of other jobs' numbers.
    done = run("train", *sweep, "workers=2,0,1", "pages=false")
    assert done.stderr.count("finished before") == 2
    configs = [path.parent / ".hydra" / "config.yaml" for path in tmp_path.glob("*/metrics.json")]
    assert sorted(yaml.safe_load(path.read_text())["workers"] for path in configs) == [0, 1, 2]


def test_a_finished_job_of_a_sweep_is_one_of_these_rooms(tmp_path):
    raw, store = classes(write_scans(tmp_path / "raw", ".npy", areas=("a", "b", "c"))), tmp_path / "store"
    prepare(raw, store)
    tiny = [*(given for given in TINY if not given.startswith("data.store")), "data=folder", "data.grid.min_points=20"]
    sweep = ["-m", *tiny, f"data.root={store}", "data.fold=b", f"hydra.sweep.dir={tmp_path}/sweep", "max_steps=1"]
    run("train", *sweep)
    assert "finished before" in run("train", *sweep).stderr
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep" / "0_resgcn2").glob("**/*.[cj]*")}
    write_scans(raw, ".npy", areas=("a", "b", "c"), count=5000)
    prepare(raw, store)
    reason = "the train rooms are others than when the run was started"
    for remedy in (
        "to train on other rooms, choose another hydra.sweep.dir",
        "make a room store with tools/prepare.py",
    ):
        done = run("train", *sweep, check=False)
        assert done.returncode == 2 and "finished before" not in done.stderr
        summary = done.stderr[done.stderr.index("1 job without a directory of its own did not run") :]
        assert reason in summary and remedy in summary
        shutil.rmtree(store, ignore_errors=True)
        reason = f"data.root={store}: no such folder"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not (tmp_path / "sweep" / "0_resgcn2" / "failed.txt").exists()


@pytest.mark.skipif(not memory._RESET.exists(), reason="a peak of memory begins anew on Linux only")
def test_the_memory_of_a_job_is_its_own(data_root, tmp_path):  # noqa: F811
    sweep = ["-m", *TINY, f"data.root={data_root}", f"hydra.sweep.dir={tmp_path}", "max_steps=1"]
    run("train", *sweep, "model.fusion_channels=50000,16")
    peaks = [json.loads((tmp_path / f"{job}_resgcn2" / "metrics.json").read_text()) for job in range(2)]
    large, small = (content["training"]["peak_memory_mb"] for content in peaks)
    assert small < large - 50


def test_a_memory_that_cannot_be_measured_is_left_empty(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr("deepgcn_seg.memory._works", 0)
    monkeypatch.setattr("deepgcn_seg.memory._RESET", Path("/nowhere/clear_refs"))
    memory.reset_peak(cpu)
    assert memory.peak_memory_mb(cpu) > 0
    memory.reset_peak(cpu)
    assert math.isnan(memory.peak_memory_mb(cpu))


def test_a_stopped_sweep_stops_and_goes_on(data_root, tmp_path):  # noqa: F811
    sweep = ["-m", *TINY, f"data.root={data_root}", f"hydra.sweep.dir={tmp_path}", "save_every=1", "k=4,3"]
    job = start(*sweep, "max_steps=100000", "epochs=1000")
    deadline = time.monotonic() + 120
    while not (tmp_path / "0_resgcn2" / "checkpoints" / "last.ckpt").is_file():
        assert time.monotonic() < deadline and job.poll() is None
        time.sleep(0.1)
    job.terminate()
    text = job.communicate(timeout=60)[1]
    assert job.returncode == 75, text
    assert not (tmp_path / "1_resgcn2").exists()


def test_shards_of_a_preparation_make_one_store(raw_rooms, tmp_path):
    folder = tmp_path / "raw"
    shutil.copytree(raw_rooms, folder)
    (folder / "Area_1" / "empty_1" / "Annotations").mkdir(parents=True)
    assert prepare(folder, tmp_path / "store", shard=(0, 2)) is None
    with pytest.raises(UserError, match=r"store\.json"):
        RoomStore(tmp_path / "store")
    store = prepare(folder, tmp_path / "store", shard=(1, 2))
    whole = prepare(folder, tmp_path / "whole")
    assert [room.key for room in store.rooms] == [room.key for room in whole.rooms]
    assert all((store.open(a).labels() == whole.open(b).labels()).all() for a, b in zip(store.rooms, whole.rooms))
    done = run(
        "prepare",
        f"source={folder}",
        f"data.root={tmp_path}/x",
        "shard=3/2",
        f"hydra.run.dir={tmp_path}/log",
        check=False,
    )
    assert "shard=3/2: must be I/N" in done.stderr


def test_many_processes_read_one_store(store):
    code = (
        "import sys, hashlib; from deepgcn_seg.data.store import RoomStore; s = RoomStore(sys.argv[1]);"
        "print(hashlib.sha256(b''.join(s.open(r).all()[0].tobytes() for r in s.rooms)).hexdigest())"
    )
    readers = [
        subprocess.Popen([sys.executable, "-c", code, str(store.root)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert len({reader.communicate()[0] for reader in readers}) == 1
    assert all(reader.returncode == 0 for reader in readers)


def test_workers_do_not_change_a_run(trained, data_root, tmp_path):  # noqa: F811
    run("train", *TINY, f"data.root={data_root}", f"hydra.run.dir={tmp_path}", "workers=2")
    assert same_weights(last(trained[0]), last(tmp_path))


def test_environment_of_the_project_is_not_needed(tmp_path):
    """Nothing depends on the directory a command is started in."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "train.py"), "--cfg", "job"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "HOME": str(Path(tmp_path))},
    )  # fmt: skip
    assert done.returncode == 0
