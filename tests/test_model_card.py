"""The card of a checkpoint: MODEL_CARD.md in a run directory, and tools/info.py."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_checkpoint import NETWORK, TRAINED_ON, small
from test_commands import TINY, run

from deepgcn_seg.commands.info import info
from deepgcn_seg.data.classes import S3DIS
from deepgcn_seg.escaping import markdown
from deepgcn_seg.evaluation.model_card import card_text
from deepgcn_seg.model.checkpoint import read_checkpoint, save_checkpoint

TRAINING = {
    **{"recipe": "mine", "optimizer": "SGD", "learning_rate": 0.5, "loss": "focal", "class_weights": "none"},
    **{"epochs": 3, "batch_size": 2, "seed": 4, "rooms": 5},
}
SCORE = {
    **{"protocol": "recut", "dataset": "S3DIS", "areas": ["5"], "rooms": 2, "points": 300, "selection": "last"},
    **{"step": 3, "mIoU": 0.5, "mIoU_interval": [0.4, 0.6], "mAcc": 0.6, "OA": 0.7},
    "IoU": {name: 0.9 for name in S3DIS.names} | {"sofa": None, "column": 0.1},
}


def saved(folder, **state):
    path = folder / "a.ckpt"
    save_checkpoint(path, small(), NETWORK, S3DIS, TRAINED_ON, step=3, **state)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("card")
    run("train", *TINY, "select=last", f"data.root={root}/data", f"hydra.run.dir={root}/run")
    return root / "run"


def test_a_run_has_the_card_of_its_checkpoint_with_its_scores(trained):
    text, scores = (trained / "MODEL_CARD.md").read_text(), json.loads((trained / "metrics.json").read_text())["test"]
    card = read_checkpoint(trained / "checkpoints" / "last.ckpt")["card"]
    assert card["score"]["mIoU"] == scores["mIoU"] and card["score"]["IoU"] == scores["IoU"]
    assert (
        f"| mIoU{'' if scores['mIoU_interval'] is None else ' (95 % over rooms)'} | {100 * scores['mIoU']:.1f}" in text
    )
    for name, iou in scores["IoU"].items():
        assert f"| IoU of {name} | {'-' if iou is None else f'{100 * iou:.1f}'} |" in text
    assert "nothing is known of real ones" in text
    weights = sum(
        p.numel()
        for n, p in read_checkpoint(trained / "checkpoints" / "last.ckpt")["model"].items()
        if not re.search("running|num_b", n)
    )
    assert f"{weights:,} parameters" in text
    # The command prints the same, and so does the checkpoint alone in another folder.
    assert run("info", trained).stdout == text + "\n"


def test_the_card_says_which_rooms_and_counts_as_one_writes(trained):
    text = (trained / "MODEL_CARD.md").read_text()
    source = json.loads((trained / "metrics.json").read_text())["test"]["data"]
    assert "density 60" in source and "seed 0" in source
    assert f"- Data: {markdown(source)}; held out for testing: area 5." in text
    assert "On 1 room (" in text and f"of area 5 of {markdown(source)}, which was not trained on." in text
    assert not re.search(r"\b1 (rooms|epochs|blocks|points)\b", text)


def test_the_commands_of_a_card_work_as_they_stand(trained, tmp_path, monkeypatch):
    np.savetxt(tmp_path / "scan.xyz", np.random.default_rng(0).random((300, 3)))
    text = (trained / "MODEL_CARD.md").read_text()
    command, code = (re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)[1] for kind in ("bash", "python"))
    _, script, *arguments = command.replace("FILE", str(trained)).replace("scan.ply", "scan.xyz").split()
    done = run(
        re.fullmatch(r"tools/(\w+)\.py", script)[1],
        *[a.replace("=", f"={tmp_path}/") if a.startswith(("input", "output")) else a for a in arguments],
    )
    assert (tmp_path / "labelled.ply").is_file(), done.stderr
    names = {}
    exec(code.replace("FILE", str(trained)), names)
    assert names["model"].classes.names == S3DIS.names


@pytest.mark.parametrize(
    ("dataset", "data", "shown"),
    [
        ("folder", "my/scans", "my/scans"),
        ("folder", None, "folder"),
        ("S3DIS", "/data/Stanford", "S3DIS (/data/Stanford)"),
        ("synthetic", "synthetic rooms, seed 3", "synthetic rooms, seed 3"),
    ],
)
def test_a_card_names_the_data_and_not_how_it_is_read(tmp_path, dataset, data, shown):
    card = {"training": {**TRAINING, "data": data}, "score": {**SCORE, "dataset": dataset, "data": data}}
    save_checkpoint(
        tmp_path / "a.ckpt",
        small(),
        NETWORK,
        S3DIS,
        {**TRAINED_ON, "name": dataset, "synthetic": None, "source": None},
        step=3,
        card=card,
    )
    text = card_text(read_checkpoint(tmp_path / "a.ckpt"), "a")
    assert f"- Data: {shown}; held out" in text and f"of area 5 of {shown}, which were" in text
    assert f" trained on {shown if dataset == 'folder' else dataset}\n" in text


def test_the_installed_command_names_itself_in_a_card(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "deepgcn_seg", "info", str(saved(tmp_path))], capture_output=True, text=True, check=True
    )
    assert "\ndeepgcn-seg predict checkpoint=FILE input=scan.ply output=labelled.ply\n" in done.stdout
    assert "tools/" not in done.stdout


def test_info_ends_quietly_if_nobody_reads_it(tmp_path):
    path = saved(tmp_path)
    command = [sys.executable, "tools/info.py", *[str(path)] * 200]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_scoring_changes_nothing_else_of_the_checkpoint(trained, tmp_path):
    # A run that was killed while it was scored is scored again when it is resumed.
    before = read_checkpoint(trained / "checkpoints" / "last.ckpt")
    (trained / "metrics.json").unlink()
    run("train", f"resume={trained}")
    after = read_checkpoint(trained / "checkpoints" / "last.ckpt")
    assert before.keys() == after.keys()
    assert all(torch.equal(before["model"][name], after["model"][name]) for name in before["model"])
    assert before["card"] == after["card"] and before["step"] == after["step"]
    assert str(before["optimizer"]) == str(after["optimizer"])


def test_a_card_tells_facts_and_limits(tmp_path):
    path = saved(tmp_path, card={"training": {**TRAINING, "commit": "abcdef0", "dirty": True}, "score": SCORE})
    text = card_text(read_checkpoint(path), path)
    for fact in (
        "Recipe mine: SGD, learning rate 0.5, 3 epochs of batches of 2 blocks, 5 rooms, seed 4; this file is of step 3 (last).",
        "Loss: focal; class weights: none.",
        "commit abcdef0 with changes that are not committed",
        "On 2 rooms (300 points) of area 5 of S3DIS",
        "| mIoU (95 % over rooms) | 50.0 (40.0 to 60.0) |",
        "Not measured, because the test rooms have none: sofa.",
        "Often wrong: column (IoU 10.0).",
    ):
        assert fact in text


MEAN = {"name": "own", "target": "mine.MeanConv", "options": {"_partial_": True, "eps": 0.5}}
RADIUS = {"name": "own", "target": "mine_too.RadiusGraph", "options": {"_partial_": True, "radius": 0.1}}
SAGE = {"_target_": "torch_geometric.nn.SAGEConv", "_partial_": True, "aggr": "max"}
PASSING = {
    "name": "own",
    "target": "deepgcn_seg.model.MessagePassing",
    "options": {"_partial_": True, "operator": SAGE},
}


@pytest.mark.parametrize(
    ("parts", "facts"),
    [
        ({}, ["(mr)", "4 neighbours (graph dynamic), dilation linear, a fusion block"]),
        ({"graph": "fixed"}, ["4 neighbours (graph fixed), dilation linear, a fusion block"]),
        (
            {"graph": RADIUS},
            [r"(graph mine\_too.RadiusGraph with radius 0.1), a fusion", "trusted=[mine_too]", "trusted=['mine_too']"],
        ),
        ({"conv": MEAN, "graph": RADIUS}, ["(mine.MeanConv with eps 0.5)", "trusted=[mine,mine_too]"]),
        ({"conv": PASSING}, ["(torch\\_geometric.nn.SAGEConv with aggr max)", "trusted=[torch_geometric.nn]"]),
    ],
)
def test_a_card_names_parts_of_its_authors_own(parts, facts, tmp_path):
    content = {**read_checkpoint(saved(tmp_path)), "model_config": {**NETWORK, **parts}}
    text = card_text(content, "a.ckpt")
    for fact in facts:
        assert fact in text


def test_a_checkpoint_without_a_card_says_what_it_does_not_know(tmp_path):
    text = card_text(read_checkpoint(saved(tmp_path)), "a.ckpt")
    assert "does not say how it was trained" in text and "does not say how good it is" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {**TRAINING, "rooms": -1}}, "card: training.rooms=-1"),
        ({"training": {**TRAINING, "recipe": "a" * 600}}, "card: training.recipe"),
        ({"training": {**TRAINING, "commit": "; rm -rf"}}, "card: training.commit"),
        ({"training": TRAINING, "score": {**SCORE, "mIoU": 7.0}}, "card: score.mIoU=7"),
        ({"training": TRAINING, "score": {**SCORE, "IoU": {"wall": "much"}}}, "card: score.IoU"),
        ([1, 2], "card"),
        ({"training": TRAINING, "more": 1}, "card: unknown field more"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(tmp_path, capsys, change, message):
    assert info("info", [str(saved(tmp_path, card=change))]) == 1
    shown = capsys.readouterr()
    assert message in shown.err and not shown.out and shown.err.count("\n") == 1


def test_text_of_a_card_is_no_markup(tmp_path):
    path = saved(tmp_path, card={"training": {**TRAINING, "recipe": "<b>\n# x\x1b[31m [a](b)"}, "score": None})
    text = card_text(read_checkpoint(path), path)
    assert "<b>" not in text and "\x1b" not in text and "\n# x" not in text and "[a](b)" not in text


def test_info_goes_on_after_a_bad_file(tmp_path, capsys):
    good = saved(tmp_path)
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    assert info("info", [str(tmp_path / "bad.ckpt"), f"checkpoint={good}"]) == 1
    shown = capsys.readouterr()
    assert "bad.ckpt" in shown.err and shown.out.startswith("# ")
    assert info("info", []) == 2 and info("info", ["--help"]) == 0
