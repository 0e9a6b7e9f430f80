"""Several processes compute what one does: two of them (gloo, CPU) against one with the whole batch."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_commands import ROOT, TINY, data_root, run  # noqa: F401

from deepgcn_seg.commands.command_line.main import INTERRUPTED
from deepgcn_seg.data.dataset import EpochSampler
from deepgcn_seg.distributed import World, declared
from deepgcn_seg.evaluation.history import read_history
from deepgcn_seg.model import EdgeConv, GraphSAGE
from deepgcn_seg.model.checkpoint import read_checkpoint

# Nothing random in the network: processes draw for themselves.
EXACT = [*TINY, "graph.stochastic=false", "model.dropout=0", "validate_every=1"]


def losses(folder):
    events = EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    return {event.step: event.value for event in events.Scalars("1_overview/loss_train")}


def entry(folder):
    return json.loads((folder / "metrics.json").read_text())["test"]


@pytest.fixture(scope="module")
def alone(data_root, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("alone") / "run"
    run("train", *EXACT, f"data.root={data_root}", f"hydra.run.dir={folder}")
    return folder


def test_two_processes_give_the_same_curve(alone, data_root, tmp_path):  # noqa: F811
    done = run("train", *EXACT, "devices=2", f"data.root={data_root}", f"hydra.run.dir={tmp_path}/run")
    assert "4 blocks: 2 processes x 1 pass of 2" in done.stderr
    one, two = losses(alone), losses(tmp_path / "run")
    assert list(one) == list(two) == [1, 2, 3, 4, 5, 6]
    assert np.allclose(list(one.values()), list(two.values()), rtol=1e-4)
    assert entry(alone)["points"] == entry(tmp_path / "run")["points"]
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) <= 2
    assert not list(ROOT.glob("train.log"))


def test_two_processes_weigh_classes_as_one(data_root, tmp_path):  # noqa: F811
    given = [*EXACT, "recipe.loss=focal", "recipe.class_weights=inverse", "max_steps=3", f"data.root={data_root}"]
    for devices in (1, 2):
        done = run("train", *given, f"devices={devices}", f"hydra.run.dir={tmp_path}/{devices}")
        assert done.stderr.count("Class weights (inverse, from ") == 1
    one, two = (list(losses(tmp_path / name).values()) for name in "12")
    assert len(one) == 3 and np.allclose(one, two, rtol=1e-4)
    recorded = [json.loads((tmp_path / name / "run.json").read_text())["class_weights"] for name in "12"]
    assert recorded[0] == recorded[1]


def test_two_processes_score_a_checkpoint_exactly_as_one(alone):
    """Trained to the end before: the second start only scores."""
    first = entry(alone)["confusion"]
    (alone / "metrics.json").unlink()
    run("train", f"resume={alone}", "devices=2")
    assert entry(alone)["confusion"] == first


def test_accumulation_takes_the_same_blocks_in_more_passes(alone, data_root, tmp_path):  # noqa: F811
    done = run("train", *EXACT, "accumulate=2", f"data.root={data_root}", f"hydra.run.dir={tmp_path}/run")
    assert "Batch norm sees 2 blocks at a time" in done.stderr
    one, two = losses(alone), losses(tmp_path / "run")
    assert list(one) == list(two)
    assert np.allclose(list(one.values()), list(two.values()), rtol=0.2)


def test_two_processes_stop_and_one_goes_on(alone, data_root, tmp_path):  # noqa: F811
    folder = tmp_path / "run"
    run("train", *EXACT, "devices=2", f"data.root={data_root}", f"hydra.run.dir={folder}", "max_steps=3")
    # Three steps were the whole run; now six are asked for, of one process.
    run("train", f"resume={folder}", "max_steps=6", "devices=1")
    one, resumed = losses(alone), losses(folder)
    assert list(resumed) == [1, 2, 3, 4, 5, 6]
    # The warm-up and cosine of three steps differ from those of six, but the data do not: losses stay close.
    assert np.allclose(list(one.values()), list(resumed.values()), rtol=0.3)


def test_batch_that_cannot_be_shared_out_is_one_line(data_root, tmp_path):  # noqa: F811
    done = run("train", *EXACT, "accumulate=3", f"data.root={data_root}", f"hydra.run.dir={tmp_path}/run", check=False)
    assert done.returncode == 2
    assert "batch_size=4: must be a multiple of 3 (1 process x accumulate=3)" in done.stderr


@pytest.fixture
def two_at_work(data_root, tmp_path):  # noqa: F811
    """A long training of two processes that has saved once: the process that waits for them, and these two."""
    command = [sys.executable, str(ROOT / "tools" / "train.py"), *EXACT, "devices=2", "epochs=1000", "max_steps=100000"]
    command += [f"data.root={data_root}", f"hydra.run.dir={tmp_path}/run"]
    with open(tmp_path / "printed", "w") as printed:
        job = subprocess.Popen(command, cwd=ROOT, stderr=printed, stdout=subprocess.DEVNULL)
    children = []
    try:
        # Cores may be busy; what is awaited has no time limit of its own.
        deadline = time.monotonic() + 250
        while not (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file():
            assert time.monotonic() < deadline and job.poll() is None, (tmp_path / "printed").read_text()
            time.sleep(0.2)
        children += map(int, subprocess.check_output(["pgrep", "-P", str(job.pid), "-f", "train.py"]).split())
        assert len(children) == 2
        yield job, children
    finally:
        # They would survive the process that waits for them.
        job.kill()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        job.wait()


def test_a_process_that_dies_ends_the_job(two_at_work, tmp_path):
    job, children = two_at_work
    os.kill(children[1], signal.SIGKILL)
    assert job.wait(250) == 1
    assert "error: a process was killed by signal 9, and the others were stopped" in (tmp_path / "printed").read_text()


def test_two_processes_that_are_asked_to_stop_save_and_go_on(two_at_work, tmp_path):
    """SLURM sends SIGTERM to every process, and the one that waits for the others passes it on."""
    job, children = two_at_work
    for process in (*children, job.pid):
        os.kill(process, signal.SIGTERM)
    assert job.wait(250) == INTERRUPTED
    printed = (tmp_path / "printed").read_text()
    assert f"resume={tmp_path}/run devices=2\n" in printed and "Traceback" not in printed
    step = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["step"]
    done = run("train", f"resume={tmp_path}/run", "devices=2", f"max_steps={step + 1}")
    assert f"last.ckpt at step {step} of {step + 1}" in done.stderr


def test_two_processes_stop_and_save_if_the_one_that_waits_for_them_is_killed(two_at_work, tmp_path):
    job, children = two_at_work
    job.kill()
    deadline = time.monotonic() + 100
    while subprocess.run(["ps", "-p", ",".join(map(str, children))], stdout=subprocess.DEVNULL).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "stopped at step" in (tmp_path / "printed").read_text()


def test_a_mistake_is_one_line_of_each_process(data_root, tmp_path):  # noqa: F811
    """In a multirun, too, and the processes that write no run directory leave nothing where they were started."""
    given = [*EXACT, "devices=2", "batch_size=3", f"data.root={data_root}", f"hydra.sweep.dir={tmp_path}/sweep"]
    files = set(ROOT.iterdir())
    done = run("train", "-m", *given, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    line = "batch_size=3: must be a multiple of 2 (2 processes x accumulate=1)"
    assert all(f"error: process {rank}: {line}" in done.stderr for rank in (0, 1))
    assert "1 of 1 jobs failed" in done.stderr and f"{tmp_path}/sweep/0_resgcn2: {line}" in done.stderr
    assert set(ROOT.iterdir()) == files


def test_the_network_that_is_validated_is_the_one_that_is_saved(data_root, tmp_path):  # noqa: F811
    """Not each process's own, whose running statistics are those of its own blocks."""
    given = [*EXACT, "devices=2", "sync_norms=false", f"data.root={data_root}", f"hydra.run.dir={tmp_path}/run"]
    run("train", *given)
    (row,) = read_history(tmp_path / "run" / "history.csv")[-1:]
    scored = ["part=validation", "protocol=recut", f"hydra.run.dir={tmp_path}/scores"]
    run("evaluate", f"checkpoint={tmp_path}/run/checkpoints/last.ckpt", *scored)
    found = json.loads((tmp_path / "scores" / "metrics.json").read_text())["validation"]
    assert found["mIoU"] == pytest.approx(row["mIoU"], abs=1e-6)


def test_help_of_several_processes_is_printed_once():
    assert run("train", "devices=2", "--help").stdout.count("\nSettings:") == 1


@pytest.mark.parametrize(
    ("size", "batch", "world", "accumulate"), [(50, 8, 2, 2), (17, 4, 4, 1), (9, 6, 1, 3), (8, 8, 2, 1)]
)
def test_processes_and_passes_share_every_step_without_overlap(size, batch, world, accumulate):
    part = batch // (world * accumulate)
    samplers = [EpochSampler(size, 3, batch, part, rank, world) for rank in range(world)]
    whole = EpochSampler(size, 3, batch)
    for start in (0, 1):
        for sampler in (*samplers, whole):
            sampler.epoch, sampler.start = 2, start
        taken = [list(sampler) for sampler in samplers]
        assert all(len(items) == len(sampler) for items, sampler in zip(taken, samplers))
        per_step = accumulate * part
        steps = [
            sorted(item for t in taken for item in t[s * per_step : (s + 1) * per_step])
            for s in range(len(taken[0]) // per_step)
        ]
        expected = list(whole)
        assert steps == [sorted(expected[s * batch : (s + 1) * batch]) for s in range(len(expected) // batch)]


@pytest.mark.parametrize(
    ("environ", "world"),
    [
        ({}, World()),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, World(3, 8, 1)),
        (
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_ID": "0", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"},
            World(2, 4, 0),
        ),
        # An interactive shell is one process, with the number of tasks of its job.
        (
            {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0"},
            World(),
        ),
        # A batch script without srun is one process, whatever it asked for.
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, World()),
    ],
)
def test_how_processes_were_started(monkeypatch, environ, world):
    for name in list(os.environ):
        if name.startswith("SLURM") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert declared() == world


def _synced(rank, port, folder, conv):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    from deepgcn_seg import DeepGCN
    from deepgcn_seg.distributed import join, leave
    from deepgcn_seg.model.layers import sync_norms

    world = join(torch.device("cpu"))
    model, points, labels = _case(DeepGCN, conv)
    sync_norms(model)
    loss = torch.nn.functional.cross_entropy(model(points[rank::2]).flatten(0, 1), labels[rank::2].flatten())
    loss.backward()
    world.average_gradients(model)
    torch.save(({n: p.grad for n, p in model.named_parameters()}, dict(model.named_buffers())), folder / f"{rank}.pt")
    leave()


def _case(network, conv):
    torch.manual_seed(0)
    model = network(
        conv=conv, depth=3, channels=8, k=4, stochastic=False, dropout=0.0, fusion_channels=16, head_channels=(16, 8)
    ).double()
    return model, torch.rand(4, 40, 9).double(), torch.randint(13, (4, 40))


@pytest.mark.parametrize("conv", [EdgeConv, GraphSAGE])
def test_synced_norms_give_the_gradients_and_statistics_of_the_whole_batch(conv, tmp_path):
    from deepgcn_seg import DeepGCN

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_synced, (port, tmp_path, conv), nprocs=2)
    model, points, labels = _case(DeepGCN, conv)
    torch.nn.functional.cross_entropy(model(points).flatten(0, 1), labels.flatten()).backward()
    for rank in range(2):
        gradients, buffers = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, parameter in model.named_parameters():
            assert torch.allclose(gradients[name], parameter.grad, rtol=0, atol=1e-12), name
        for name, buffer in model.named_buffers():
            assert torch.allclose(buffers[name], buffer, rtol=0, atol=1e-12), name


class Doubled(World):
    """Two processes, of which the other one has the same values."""

    def sum(self, values):
        return values.mul_(2)


def test_a_parameter_that_no_process_used_has_no_gradient():
    """As in one process, where the optimiser leaves it alone."""
    used, unused = (torch.nn.Linear(3, 2) for _ in range(2))
    used(torch.ones(1, 3)).sum().backward()
    Doubled(size=2).average_gradients(torch.nn.ModuleList([used, unused]))
    assert torch.equal(used.weight.grad, torch.ones(2, 3)) and torch.equal(used.bias.grad, torch.ones(2))
    assert unused.weight.grad is None and unused.bias.grad is None


def test_batch_norms_that_are_not_synced_are_known_by_name():
    from deepgcn_seg import DeepGCN
    from deepgcn_seg.model.layers import sync_norms, unsynced_norms

    model = _case(DeepGCN, EdgeConv)[0]
    model.own = torch.nn.ModuleList([torch.nn.BatchNorm1d(4), torch.nn.LayerNorm(4), torch.nn.SyncBatchNorm(4)])
    assert "head.first.norm" in unsynced_norms(model)
    sync_norms(model)
    assert unsynced_norms(model) == ["own.0"]
