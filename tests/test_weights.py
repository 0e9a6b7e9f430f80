"""``weights`` and ``freeze`` on the command line: a training that begins with the weights of another."""

import hashlib
import json
import re
import shutil

import pytest
import torch
import yaml
from test_commands import TINY, data_root, run, tensors_equal, trained  # noqa: F401
from test_distributed import EXACT, losses


def weights_of(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["model"]


def test_a_run_begins_with_weights_and_goes_on_without_the_file(trained, data_root, tmp_path):  # noqa: F811
    source = tmp_path / "source"
    shutil.copytree(trained[0], source)
    digest = hashlib.sha256((source / "checkpoints" / "best.ckpt").read_bytes()).hexdigest()
    given = [*TINY, f"data.root={data_root}", f"weights={source}", "freeze=[backbone]"]
    # Half-way and then on, with the source gone; and all at once.
    done = run("train", *given, f"hydra.run.dir={tmp_path}/whole")
    assert "100 % of the parameters" in done.stderr
    assert "Frozen: backbone; " in done.stderr
    run("train", *given, f"hydra.run.dir={tmp_path}/parts", "max_steps=2")
    shutil.rmtree(source)
    run("train", f"resume={tmp_path}/parts", "max_steps=6")
    before, first, second = weights_of(trained[0], "best"), *(weights_of(tmp_path / f) for f in ("whole", "parts"))
    for name, tensor in before.items():
        for after in (first, second):
            assert torch.equal(after[name], tensor) == name.startswith("backbone."), name
    for folder in ("whole", "parts"):
        for file in ("run.json", "metrics.json"):
            found = json.loads((tmp_path / folder / file).read_text())["weights"]
            assert found == {"path": f"{source}/checkpoints/best.ckpt", "sha256": digest, "step": 6}
    refused = run("train", f"resume={tmp_path}/parts", f"weights={trained[0]}", check=False)
    assert refused.stderr == f"error: weights={trained[0]}: a resumed run keeps its own weights\n"


def test_what_was_frozen_can_be_trained_on(trained, data_root, tmp_path):  # noqa: F811
    given = [*TINY, f"data.root={data_root}", f"weights={trained[0]}", "freeze=[backbone]", "max_steps=2"]
    run("train", *given, f"hydra.run.dir={tmp_path}/run")
    frozen = weights_of(tmp_path / "run")
    run("train", f"resume={tmp_path}/run", "freeze=[]", "max_steps=4")
    free = weights_of(tmp_path / "run")
    assert all(not torch.equal(free[name], frozen[name]) for name in free if name.endswith("linear.weight"))


def test_two_processes_freeze_as_one_does(trained, data_root, tmp_path):  # noqa: F811
    given = [*EXACT, f"data.root={data_root}", f"weights={trained[0]}", "freeze=[backbone.blocks,fusion]"]
    run("train", *given, f"hydra.run.dir={tmp_path}/one", "max_steps=3")
    run("train", *given, f"hydra.run.dir={tmp_path}/two", "max_steps=3", "devices=2")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert list(one) == [1, 2, 3]
    assert list(one.values()) == pytest.approx(list(two.values()), rel=1e-4)
    before, after = weights_of(trained[0], "best"), weights_of(tmp_path / "two")
    for name in before:
        if name.startswith(("backbone.blocks.", "fusion.")):
            assert torch.equal(before[name], after[name]), name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("weights=nowhere.ckpt", "weights={}/nowhere.ckpt: no such file"),
        ("weights=", "weights is empty"),
        ("weights=empty", "weights {}/empty: a directory without checkpoints/best.ckpt or last.ckpt; give a file"),
        ("weights=pickle.ckpt", "checkpoint {}/pickle.ckpt: damaged, or not a checkpoint (it names pathlib"),
        ("freeze=[backbon]", "freeze=[backbon]: no part backbon; did you mean backbone"),
        ("freeze=backbone", "freeze=backbone: must be a list of names of parts, as [backbone]"),
    ],
)
def test_mistakes_end_before_any_work(tmp_path, given, message):
    (tmp_path / "empty").mkdir()
    torch.save({"model": tmp_path}, tmp_path / "pickle.ckpt")
    key, _, value = given.partition("=")
    given = f"weights={tmp_path}/{value}" if key == "weights" and value else given
    done = run("train", *TINY, f"data.root={tmp_path}/data", f"hydra.run.dir={tmp_path}/run", given, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message.format(tmp_path)}") and done.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "run" / ".hydra").exists()


def test_a_frozen_part_that_would_begin_anew_is_refused(trained, data_root, tmp_path):  # noqa: F811
    given = [*TINY, f"data.root={data_root}", f"weights={trained[0]}", "data.features=[block,room]"]
    done = run("train", *given, "freeze=[backbone]", f"hydra.run.dir={tmp_path}/run", check=False)
    assert done.returncode == 2
    assert "error: freeze=[backbone]: backbone.head begins anew (channels block, color, room there" in done.stderr
    assert not (tmp_path / "run" / "run.json").exists()


def test_runs_from_before_there_were_weights_go_on(trained, tmp_path):  # noqa: F811
    shutil.copytree(trained[0], tmp_path / "run")
    stored, facts = tmp_path / "run" / ".hydra" / "config.yaml", tmp_path / "run" / "run.json"
    stored.write_text(re.sub(r"^(weights|freeze): .*\n", "", stored.read_text(), flags=re.M))
    content = json.loads(facts.read_text())
    for key in ("weights", "freeze"):
        del content["settings"][key]
    facts.write_text(json.dumps(content))
    assert not {"weights", "freeze"} & yaml.safe_load(stored.read_text()).keys()
    run("train", f"resume={tmp_path}/run", "max_steps=7", "epochs=1")
    assert not tensors_equal(weights_of(tmp_path / "run"), weights_of(trained[0]))
