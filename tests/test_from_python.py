"""The commands from Python: the same results as the command lines, and exceptions in the place of exits."""

import asyncio
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from test_commands import ROOT, TINY, data_root, run, tensors_equal, trained  # noqa: F401
from test_training import FINISHED

import deepgcn_seg
from deepgcn_seg.commands.command_line.settings_folder import settings_folder
from deepgcn_seg.data.scans.files import read_scan
from deepgcn_seg.errors import Interrupted
from deepgcn_seg.evaluation.history import read_history
from deepgcn_seg.training.tensorboard import RunLog


@pytest.fixture
def tiny(data_root, tmp_path):  # noqa: F811
    return [*TINY, f"data.root={data_root}", f"hydra.run.dir={tmp_path}/run"]


def last(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_training_is_that_of_the_command_line(trained, tiny, tmp_path):  # noqa: F811
    found = deepgcn_seg.train(*tiny)
    assert found.directory == tmp_path / "run"
    assert tensors_equal(last(found.directory)["model"], last(trained[0])["model"])
    test, expected = found.metrics["test"], json.loads((trained[0] / "metrics.json").read_text())["test"]
    assert test["confusion"] == expected["confusion"]
    drop = lambda rows: [{k: v for k, v in row.items() if k not in ("seconds", "peak_memory_mb")} for row in rows]
    assert drop(found.history) == drop(read_history(trained[0] / "history.csv"))
    model = found.load()
    assert not model.training and model(torch.rand(1, 64, 9)).shape == (1, 64, 13)
    record = json.loads((found.directory / "run.json").read_text())
    assert record["command"].startswith("deepgcn_seg.train('depth=2', 'channels=8', ")
    assert "Training on" in (found.directory / "train.log").read_text()


def test_scores_that_contradict_their_confusion_matrix_are_an_error(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").touch()
    (tmp_path / "metrics.json").write_text(FINISHED)
    found = deepgcn_seg.Run(tmp_path)
    assert found.metrics == json.loads(FINISHED)
    (tmp_path / "metrics.json").write_text(FINISHED.replace('"mIoU": 0.5', '"mIoU": 0.9'))
    with pytest.raises(
        deepgcn_seg.UserError, match=r"metrics\.json: test: has mIoU 0\.9, which is 0\.5 by its confusion"
    ):
        _ = found.metrics


def test_a_checkpoint_is_scored_and_labels_a_scan(trained, raw_rooms, tmp_path):  # noqa: F811
    checkpoint = f"checkpoint={deepgcn_seg.Run(trained[0]).directory}"
    entry = deepgcn_seg.evaluate(checkpoint, f"hydra.run.dir={tmp_path}/scores", "device=cpu")
    assert entry["mIoU"] == json.loads((trained[0] / "metrics.json").read_text())["test"]["mIoU"]
    scan = raw_rooms / "Area_5" / "office_1" / "office_1.txt"
    out = deepgcn_seg.predict(
        checkpoint, f"input={scan}", f"output={tmp_path}/a b.ply", f"hydra.run.dir={tmp_path}/log", "device=cpu"
    )
    assert out == [tmp_path / "a b.ply"]
    assert read_scan(out[0]).fields["label"].max() < 13


def test_several_trainings_in_one_process_in_threads_and_in_a_running_loop(data_root, tmp_path):  # noqa: F811
    def train(number):
        return deepgcn_seg.train(*TINY, "max_steps=2", f"data.root={data_root}", f"hydra.run.dir={tmp_path}/{number}")

    async def in_a_loop():
        return [train("loop"), await asyncio.to_thread(train, "thread of the loop")]

    with ThreadPoolExecutor(2) as pool:
        runs = [train("first"), *pool.map(train, ("thread 1", "thread 2")), *asyncio.run(in_a_loop())]
    first, *others = (last(found.directory)["model"] for found in runs)
    assert len(others) == 4
    assert all(tensors_equal(first, other) for other in others)


def test_a_script_without_a_guard_is_told_to_have_one(tiny, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, deepgcn_seg\n"
        "multiprocessing.set_start_method('spawn', force=True)\n"
        f"deepgcn_seg.train(*{[*tiny, 'workers=1', 'max_steps=1']!r})\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    told = "must stand below if __name__ == '__main__':"
    assert done.returncode == 1 and "for want of memory" not in done.stderr
    assert f"error: a process that loads data runs the whole script: in a script, train(...) {told}\n" in done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"the training {told}; or set workers=0")


def test_the_stop_button_ends_a_training_that_goes_on_later(trained, tiny, tmp_path, monkeypatch):  # noqa: F811
    def stopped(log, step, *values):
        # The step after this one is the last.
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "step", stopped)
        with pytest.raises(Interrupted, match="stopped at step 4 of 6; resume="):
            deepgcn_seg.train(*tiny)
    with pytest.raises(deepgcn_seg.UserError, match="the run has not finished"):
        _ = deepgcn_seg.Run(tmp_path / "run").metrics
    found = deepgcn_seg.train(f"resume={tmp_path}/run")
    assert tensors_equal(last(found.directory)["model"], last(trained[0])["model"])


def test_nothing_of_a_call_remains_in_the_process(tiny, tmp_path):
    logger = logging.getLogger("deepgcn_seg")
    before = logger.level, list(logger.handlers), logging.root.level, list(logging.root.handlers), os.getcwd()
    random, hook, filters = torch.get_rng_state(), threading.excepthook, list(warnings.filters)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        # As in an application with a Hydra of its own.
        deepgcn_seg.train(*tiny, "max_steps=1")
        assert compose("report").runs is None
    assert not GlobalHydra.instance().is_initialized()
    assert not HydraConfig.initialized()
    after = logger.level, list(logger.handlers), logging.root.level, list(logging.root.handlers), os.getcwd()
    assert after == before
    assert torch.equal(torch.get_rng_state(), random)
    assert threading.excepthook is hook
    assert warnings.filters == filters


def test_a_finished_run_is_extended_and_says_what_the_schedule_does(tiny):
    one = [setting for setting in tiny if not setting.startswith("batch_size")]
    found = deepgcn_seg.train(*one, "batch_size=64", "max_steps=null", "epochs=1")
    steps, before = last(found.directory)["step"], found.metrics
    found = deepgcn_seg.train(f"resume={found.directory}", "epochs=2")
    assert [(row["step"], row["epoch"]) for row in found.history] == [(steps, 1), (2 * steps, 2)]
    assert found.metrics != before
    assert json.loads((found.directory / f"metrics_step{steps}.json").read_text()) == before
    assert json.loads((found.directory / "run.json").read_text())["settings"]["epochs"] == "2"

    def rate(step, total):
        """Warm-up over a tenth, here less than the first step, and a cosine."""
        return 0.008 * 0.5 * (1 + math.cos(math.pi * (step - 1) / (total - 1)))

    log = (found.directory / "train.log").read_text()
    told = f"at step {steps} of {2 * steps}; learning rate {rate(steps, 2 * steps):.3g}, before {rate(steps - 1, steps):.3g}"
    assert told in log
    assert "Changed: epochs 1 -> 2" in log


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["depht=3"], r"depht: no such setting; did you mean depth\?"),
        (["depth=x"], r"depth=x: must be an integer"),
        (["k=5000"], r"k=5000: must be at most points=64"),
        (["backbone=foo"], r"backbone=foo: must be one of densegcn, "),
        (["backbone=null"], r"backbone=null: must be one of densegcn, "),
        (["scan.ply"], r"scan\.ply is no setting"),
        (["depth=7,14"], r"Ambiguous value for argument 'depth=7,14'"),
        (["k=("], r"Error parsing override 'k=\('"),
        (["-m", "depth=7,14"], r"-m: options are for the command line"),
        (["--help"], r"--help: options are for the command line"),
        (["experiment=ablate_k"], r"these settings are a multirun"),
        (["devices=2"], r"devices=2: give it on the command line"),
        (["resume=nowhere"], r"resume=nowhere: not a run directory"),
        (["=3"], r"^=3: no setting stands before the ="),
        (["hydra.searchpath=[/nowhere]"], r"hydra\.searchpath=\[/nowhere\]: there is no folder /nowhere"),
        ([14], r"14: settings are texts, as 'depth=14'"),
        (["hydra.run.dir=/dev/null/none"], r"/dev/null/none"),
    ],
)
def test_mistakes_are_exceptions_of_one_line(tiny, settings, message):
    with pytest.raises(deepgcn_seg.UserError, match=message) as raised:
        deepgcn_seg.train(*tiny, *settings)
    assert "\n" not in str(raised.value)


def test_mistakes_in_evaluate_predict_and_run(trained, tmp_path):  # noqa: F811
    with pytest.raises(deepgcn_seg.UserError, match="checkpoint is not set"):
        deepgcn_seg.evaluate(f"hydra.run.dir={tmp_path}/a")
    with pytest.raises(deepgcn_seg.UserError, match=r"nowhere\.ply: no such file or folder"):
        deepgcn_seg.predict(
            f"checkpoint={trained[0]}", "input=nowhere.ply", f"output={tmp_path}/o.ply", f"hydra.run.dir={tmp_path}/b"
        )
    with pytest.raises(deepgcn_seg.UserError, match="not a run directory"):
        deepgcn_seg.Run(tmp_path)
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").touch()
    unfinished = deepgcn_seg.Run(tmp_path)
    assert unfinished.history == []
    with pytest.raises(deepgcn_seg.UserError, match="has not finished"):
        _ = unfinished.metrics
    with pytest.raises(deepgcn_seg.UserError, match=r"without checkpoints/best\.ckpt"):
        unfinished.load()


def test_a_folder_of_settings_of_ones_own_adds_choices_or_takes_the_place(tiny, tmp_path):
    more, whole = tmp_path / "with, comma", tmp_path / "whole"
    (more / "experiment").mkdir(parents=True)
    (more / "experiment" / "mine.yaml").write_text("# @package _global_\nmax_steps: 1\nk: 3\n")
    tiny = [setting for setting in tiny if not setting.startswith(("k=", "max_steps="))]
    found = deepgcn_seg.train(*tiny, "experiment=mine", config_dir=more)
    assert json.loads((found.directory / "run.json").read_text())["settings"]["k"] == "3"
    whole.mkdir()
    (whole / "train.yaml").write_text("nothing: 1\n")
    with pytest.raises(deepgcn_seg.UserError, match="depth: no such setting"):
        deepgcn_seg.train(*tiny, config_dir=whole)
    with pytest.raises(deepgcn_seg.UserError, match="no such folder"):
        deepgcn_seg.train(*tiny, config_dir=tmp_path / "nowhere")
    assert settings_folder() == ROOT / "conf"


def test_importing_the_package_takes_no_time():
    code = (
        "import sys, deepgcn_seg; "
        "slow = {'torch', 'hydra', 'numba', 'numpy', 'matplotlib'} & sys.modules.keys(); assert not slow, slow; "
        "assert {'DeepGCN', 'train', 'Run'} <= set(dir(deepgcn_seg)); "
        "from deepgcn_seg import *; assert DeepGCN.__name__ == 'DeepGCN' and callable(train); "
        "assert not hasattr(deepgcn_seg, 'nothing')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
