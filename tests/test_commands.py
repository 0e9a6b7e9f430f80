"""The command lines, run as a user runs them, on tiny synthetic data."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from forked import Forked
from omegaconf import OmegaConf
from test_labelled_scans import classes, write_scans

from deepgcn_seg import load_model
from deepgcn_seg.commands.command_line import sweeps
from deepgcn_seg.model.checkpoint import read_checkpoint

ROOT = Path(__file__).parent.parent
# Seconds, not minutes: two layers, few points.
TINY = [
    "depth=2", "channels=8", "k=4", "points=64", "batch_size=4", "epochs=2", "max_steps=6",
    "recipe=modern", "recipe.loss=cross_entropy", "select=validation",
    "model.fusion_channels=16", "model.head_channels=[16,8]", "save_every=2", "device=cpu",
    "data.store.rooms_per_area=1", "data.store.density=60",
]  # fmt: skip


def run(tool, *arguments, check=True, env=None, folder=ROOT):
    command = [str(Path(folder) / "tools" / f"{tool}.py"), *map(str, arguments)]
    environment = {**os.environ, **(env or {})}
    if "hydra/launcher=joblib" in command:
        # Its worker processes end with the interpreter, which a forked process leaves without ceremony.
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, cwd=folder, env=environment, timeout=300
        )
    else:
        done = Forked(command, folder, environment).completed(timeout=300)
    if check:
        assert done.returncode == 0, done.stderr + done.stdout
    return done


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("commands") / "data"


@pytest.fixture(scope="session")
def trained(tmp_path_factory, data_root):
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = run("train", *TINY, f"data.root={data_root}", f"hydra.run.dir={folder}")
    return folder, done


def test_a_run_leaves_what_it_promises(trained):
    folder, done = trained
    # A single room chooses the best checkpoint.
    assert "chosen by 1 room: by so few it is a matter of chance" in done.stderr
    for name in (
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "metrics.json",
        "history.csv",
        "room.png",
        "train.log",
        ".hydra/config.yaml",
    ):
        assert (folder / name).is_file(), name
    assert list(folder.glob("events.out.tfevents.*"))
    metrics = json.loads((folder / "metrics.json").read_text())["test"]
    assert metrics["protocol"].startswith("rooms")
    assert metrics["data"].startswith("synthetic")
    assert metrics["areas"] == [5]
    assert len(metrics["confusion"]) == 13
    assert sum(map(sum, metrics["confusion"])) == metrics["points"]
    assert "mIoU" in done.stdout
    assert "This is not S3DIS" in done.stderr


def test_tensorboard_has_curves_config_and_hparams(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained[0]), {"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    tags = events.Tags()
    for name in (
        "1_overview/loss_train",
        "1_overview/rate",
        "1_overview/mIoU_validation",
        "1_overview/loss_validation",
        "3_validation/OA",
        "3_validation/mAcc",
        "5_IoU_validation/wall",
        "4_test/mIoU",
        "hparam/mIoU",
    ):
        assert name in tags["scalars"], name
    assert [e.step for e in events.Scalars("1_overview/loss_train")] == [1, 2, 3, 4, 5, 6]
    assert {"3_validation/confusion", "4_test/room"} <= set(tags["images"])
    assert "config/text_summary" in tags["tensors"]
    # Each layer's gradients and the reach of its neighbours, and held-out blocks as point clouds.
    for name in (
        "7_gradient_norm/layer_00",
        "7_gradient_norm/layer_01",
        "8_neighbor_distance/layer_01",
        "2_training/peak_memory_mb",
    ):
        assert name in tags["scalars"], name
    for name in ("block_0/truth", "block_1/prediction"):
        assert any(tag.startswith(name) for tag in tags["tensors"]), name


def test_a_checkpoint_is_complete_in_itself(trained):
    model = load_model(trained[0] / "checkpoints" / "best.ckpt")
    assert not model.training
    assert list(model.classes)[:2] == ["ceiling", "floor"]
    assert model(torch.rand(1, 64, 9)).shape == (1, 64, 13)


@pytest.mark.parametrize("protocol", ["rooms", "blocks", "recut"])
def test_evaluate(trained, tmp_path, protocol):
    checkpoint = trained[0] / "checkpoints" / "best.ckpt"
    done = run(
        "evaluate", f"checkpoint={checkpoint}", f"protocol={protocol}", f"hydra.run.dir={tmp_path}", "device=cpu"
    )
    entry = json.loads((tmp_path / "metrics.json").read_text())["test"]
    assert entry["protocol"].startswith(protocol)
    assert entry["checkpoint"] == str(checkpoint)
    assert f"protocol {protocol}" in done.stdout
    if protocol == "rooms":
        trained_entry = json.loads((trained[0] / "metrics.json").read_text())["test"]
        assert entry["confusion"] == trained_entry["confusion"]


def test_prepare_and_train_on_it_as_s3dis(raw_rooms, tmp_path):
    done = run("prepare", f"source={raw_rooms}", f"data.root={tmp_path}/store", f"hydra.run.dir={tmp_path}/log")
    assert "12 rooms in 6 areas" in done.stderr
    tiny = [t for t in TINY if not t.startswith("data.store")]
    run("train", *tiny, "data=s3dis", f"data.root={tmp_path}/store", f"hydra.run.dir={tmp_path}/run", "max_steps=1")
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_own_scans_are_prepared_trained_on_and_scored(tmp_path):
    raw = classes(write_scans(tmp_path / "raw", ".npy", colored=False, areas=("a", "b", "c")))
    done = run("prepare", f"source={raw}", f"data.root={tmp_path}/store", f"hydra.run.dir={tmp_path}/log")
    assert "labelled scans, 6 in 3 areas" in done.stderr
    tiny = [t for t in TINY if not t.startswith("data.store")]
    common = [*tiny, "data=folder", f"data.root={tmp_path}/store", "data.grid.min_points=20"]
    done = run("train", *common, f"hydra.run.dir={tmp_path}/x", check=False)
    assert "data.fold is not set" in done.stderr and "a, b, c" in done.stderr
    run("train", *common, "data.fold=b", f"hydra.run.dir={tmp_path}/run", "data.features=[block,room,height]")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert list(metrics["rooms"]) == ["b/room_0", "b/room_1"]
    assert metrics["classes"] == ["floor", "middle", "ceiling"]
    model = load_model(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert (model.in_channels, model.num_classes, model.backbone.positions) == (7, 3, [3, 4, 5])
    scan = next(raw.glob("b/room_0*"))
    where = [f"output={tmp_path}/a.npz", f"picture={tmp_path}/a.png", f"hydra.run.dir={tmp_path}/log"]
    done = run("predict", f"checkpoint={tmp_path}/run", f"input={scan}", *where)
    assert f"{scan}: field class is shown as the truth" in done.stderr
    done = run(
        "evaluate", f"checkpoint={tmp_path}/run/checkpoints/best.ckpt", f"hydra.run.dir={tmp_path}/e", "data.fold=c"
    )
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["test"]["rooms"].keys() == {"c/room_0", "c/room_1"}
    run("train", "-m", *common, "data.fold=a,b,c", f"hydra.sweep.dir={tmp_path}/folds", "max_steps=1")
    run("report", f"runs={tmp_path}/folds", f"hydra.run.dir={tmp_path}/log")
    assert "3-fold, pooled" in (tmp_path / "folds" / "report.md").read_text()


def test_check_export_and_train_on_official_blocks(store, tmp_path):
    done = run("prepare", f"data.root={store.root}", "check=true", f"hydra.run.dir={tmp_path}/log", check=False)
    assert done.returncode == 2
    assert f"{store.root}: 260 of the 272 rooms of S3DIS are missing" in done.stderr.splitlines()
    assert "Area_5" in done.stdout
    run("prepare", f"data.root={store.root}", f"export={tmp_path}/blocks", f"hydra.run.dir={tmp_path}/log")
    tiny = [t for t in TINY if not t.startswith("data.store")]
    common = [*tiny, "data=s3dis_hdf5", f"data.root={tmp_path}/blocks", "max_steps=1"]
    done = run("train", *common, f"hydra.run.dir={tmp_path}/a", check=False)
    assert "use protocol=blocks" in done.stderr
    assert not (tmp_path / "a" / "checkpoints").exists()
    run("train", *common, "protocol=blocks", f"hydra.run.dir={tmp_path}/b")
    entry = json.loads((tmp_path / "b" / "metrics.json").read_text())["test"]
    assert entry["protocol"].startswith("blocks")


def test_benchmark(tmp_path):
    done = run("benchmark", *SMALL_BENCHMARK, "depth=3", "points=128", f"hydra.run.dir={tmp_path}")
    assert "times reference" in done.stdout
    rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]
    assert [(row["task"], row["batch"]) for row in rows] == [("step", 1), ("inference", 1)]
    assert all(row["seconds"][name][0] > 0 for row in rows for name in ("reference", "ours"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["reference", "ours"])
@pytest.mark.parametrize(
    "network",
    [{"conv": "edge", "connection": "res"}, {"conv": "mr", "connection": "dense"}],
    ids=["res edge", "dense mr"],
)
def test_precision_of_what_is_measured(network, name, precision):
    from deepgcn_seg.benchmark.build import build

    settings = {**network, "depth": 2, "channels": 8, "k": 4, "precision": precision}
    logits = build(name, settings, torch.device("cpu"))(torch.rand(1, 32, 9))
    assert logits.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


SMALL_BENCHMARK = ["channels=8", "k=4", "batch_sizes=[1]", "repeats=1", "device=cpu"]


def benchmark(tmp_path, *arguments):
    run("benchmark", *SMALL_BENCHMARK, *arguments, f"hydra.run.dir={tmp_path}")
    name = next(argument.removeprefix("measure=") for argument in arguments if argument.startswith("measure="))
    content = json.loads((tmp_path / f"{name}.json").read_text())
    assert (tmp_path / f"{name}.md").read_text().count("|") > 10
    assert content["versions"] and "cpu" in content["measured"]
    return content


def test_benchmark_of_parts_stays_above_the_roofline(tmp_path):
    content = benchmark(tmp_path, "measure=parts", "depth=4", "points=1024")
    searches = [row for row in content["rows"] if row["part"] == "neighbour search"]
    assert [row["task"] for row in searches] == ["step", "inference"]
    # 1024 points: positions of three channels, then three layers of eight, and one more for the norms.
    assert all(row["flops"] == 1024**2 * (4 + 3 * 9) for row in searches)
    assert all(row["seconds"] > row["least_seconds"] > 0 for row in searches)
    assert (tmp_path / "parts.png").read_bytes()[:4] == b"\x89PNG"


def test_benchmark_of_scaling(tmp_path):
    axes = ["axes.points=[64,20000]", "axes.batch=[2]", "~axes.depth", "~axes.k"]
    content = benchmark(tmp_path, "measure=scaling", "depth=2", "points=128", "task=inference", *axes)
    found = {(row["axis"], row["value"]): set(row["seconds"]) for row in content["rows"]}
    assert found.pop(("points", 20000)) == {"ours"}, "a matrix of 400 million distances is not tried"
    assert set(map(frozenset, found.values())) == {frozenset({"ours", "reference"})}
    assert set(found) == {("points", 64), ("batch", 2)}
    assert (tmp_path / "scaling.png").is_file()


def test_benchmark_of_small_networks(tmp_path):
    content = benchmark(tmp_path, "measure=small", "sizes=[[2,64,1,4,8],[3,40,2,4,8]]")
    assert [(row["connection"], row["conv"], row["points"]) for row in content["rows"]] == [
        (connection, conv, points)
        for connection in ("plain", "res", "dense")
        for conv in ("edge", "mr")
        for points in (64, 40)
    ]
    assert set(content["least_times_faster"]) == {"step", "inference"}


def test_benchmark_of_torch_geometrics_convolution(tmp_path):
    pytest.importorskip("torch_cluster", reason="torch-cluster is not built (make cluster)")
    content = benchmark(tmp_path, "measure=pyg", "depth=2", "points=64")
    assert [(row["layers"], row["task"]) for row in content["rows"]] == [
        (1, "step"), (1, "inference"), (2, "step"), (2, "inference")
    ]  # fmt: skip
    assert all(set(row["seconds"]) == {"torch_geometric", "ours"} for row in content["rows"])


def test_networks_with_torch_geometrics_convolution_and_ours_are_the_same():
    pytest.importorskip("torch_cluster", reason="torch-cluster is not built (make cluster)")
    from deepgcn_seg.benchmark.dgcnn import DGCNN

    theirs, ours = (DGCNN(name, depth=2, channels=8, k=5, layers=1).eval() for name in ("torch_geometric", "ours"))
    ours.load_state_dict(theirs.state_dict())
    points = torch.rand(2, 64, 9)
    torch.testing.assert_close(ours(points), theirs(points))


def test_benchmark_of_data(tmp_path, data_root):
    store = ["data.store.rooms_per_area=1", "data.store.density=60"]
    content = benchmark(tmp_path, "measure=data", "depth=2", "points=64", f"data.root={data_root}", *store)
    assert all(content[what][0] > 0 for what in ("loader", "training", "scoring"))


def test_assembly_of_library_parts_is_the_same_network(tmp_path):
    pytest.importorskip("torch_cluster", reason="torch-cluster is not built (make cluster)")
    from deepgcn_seg.benchmark.build import build

    settings = {"conv": "edge", "connection": "res", "depth": 3, "channels": 8, "k": 4}
    ours, assembly = (build(name, settings, torch.device("cpu")).eval() for name in ("ours", "assembly"))
    weights = list(assembly.parameters())
    assert [w.shape for w in weights] == [w.shape for w in ours.parameters()]
    with torch.no_grad():
        for target, source in zip(weights, ours.parameters()):
            target.copy_(source)
        points = torch.rand(2, 90, 9)
        assert torch.allclose(ours(points), assembly(points), atol=1e-4)
    networks = "networks=[reference,assembly,ours]"
    run("benchmark", *SMALL_BENCHMARK, "depth=3", "points=128", networks, f"hydra.run.dir={tmp_path}")
    assert "times assembly" in (tmp_path / "benchmark.md").read_text()


def test_a_gpu_has_its_memory_back_before_memory_is_measured(monkeypatch):
    """With 16 blocks the official formulation takes half of a large GPU, in each of the two processes."""
    from deepgcn_seg.benchmark import network

    calls = []
    times = {"reference": [1.0], "ours": [1.0]}
    monkeypatch.setattr(network, "interleaved", lambda *_: calls.append("timed") or times)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("emptied"))
    monkeypatch.setattr(network, "alone", lambda *_: calls.append("memory") or ([1.0], 1.0))
    monkeypatch.setattr(network, "publish", lambda *_: None)
    sizes = {"connection": "res", "depth": 1, "channels": 8, "k": 4, "points": 16, "precision": "fp32"}
    edge = {"conv": {"_target_": "deepgcn_seg.model.EdgeConv"}, "networks": ["reference", "ours"]}
    network.measure_network(OmegaConf.create({**sizes, **edge, "batch_sizes": [1], "repeats": 1, "device": "cpu"}))
    assert calls == ["timed", "emptied", "memory", "memory"] * 2


def test_convert_an_official_checkpoint_and_evaluate_it(tmp_path, store):
    official = tmp_path / "ckpt_best.pth"
    state = torch.load(ROOT / "tests" / "fixtures" / "res_edge_7.pt", weights_only=True)
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state["state_dict"].items()}}, official)
    done = run("convert", f"checkpoint={official}", f"output={tmp_path}/ours.ckpt", "k=9", f"hydra.run.dir={tmp_path}")
    run(
        "convert",
        f"checkpoint={official}",
        f"output={tmp_path}/told.ckpt",
        "k=9",
        "conv=edge",
        "connection=res",
        f"hydra.run.dir={tmp_path}",
    )
    assert "res, conv edge, depth 7, 24 channels, k 9" in done.stderr
    model = load_model(tmp_path / "ours.ckpt")
    assert torch.allclose(model(state["points"]), state["eval_logits"], atol=1e-4)
    run(
        "evaluate",
        f"checkpoint={tmp_path}/ours.ckpt",
        f"data.root={store.root}",
        "points=128",
        f"hydra.run.dir={tmp_path}/scores",
    )
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["test"]["protocol"].startswith("rooms")


def tensors_equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(tensors_equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(tensors_equal, a, b))
    return a == b


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_goes_on_to_the_same_weights(trained, data_root, tmp_path, number):
    """Stop in the middle of an epoch; resumed, it ends bit-equal to the run that was not stopped."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "tools" / "train.py", *TINY, f"data.root={data_root}", f"hydra.run.dir={tmp_path}"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    # The first checkpoint inside an epoch says that steps are being made.
    deadline = time.time() + 120
    while not (tmp_path / "checkpoints" / "last.ckpt").is_file() and process.poll() is None and time.time() < deadline:
        time.sleep(0.002)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    if process.returncode == 75:
        assert "resume=" in stderr
        assert not (tmp_path / "metrics.json").exists()
        run("train", f"resume={tmp_path}")
    else:
        # It was through before the signal came: nothing to resume, but the same in the end.
        assert process.returncode == 0, stderr
    a, b = (torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (trained[0], tmp_path))
    for key in ("model", "optimizer", "step", "best", "random"):
        assert tensors_equal(a[key], b[key]), key
    first, second = (json.loads((f / "metrics.json").read_text())["test"] for f in (trained[0], tmp_path))
    assert first["confusion"] == second["confusion"]


def test_resume_from_a_mid_epoch_checkpoint(trained, data_root, tmp_path):
    """Deterministic counterpart: train 3 of 6 steps, then raise max_steps."""
    short = [t for t in TINY if not t.startswith("max_steps")]
    run(
        "train",
        *short,
        "max_steps=3",
        "recipe.schedule.warmup=0",
        "recipe.schedule.floor=1",
        f"data.root={data_root}",
        f"hydra.run.dir={tmp_path}/a",
    )
    run("train", f"resume={tmp_path}/a", "max_steps=6")
    run(
        "train",
        *TINY,
        "recipe.schedule.warmup=0",
        "recipe.schedule.floor=1",
        f"data.root={data_root}",
        f"hydra.run.dir={tmp_path}/b",
    )
    a, b = (torch.load(tmp_path / f / "checkpoints" / "last.ckpt", weights_only=True) for f in "ab")
    assert a["step"] == b["step"] == 6
    assert tensors_equal(a["model"], b["model"])


def test_a_run_from_before_settings_were_renamed_goes_on_and_is_evaluated(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    for file, pairs in {
        ".hydra/config.yaml": (
            ("  recompute: ", "  checkpoint: "),
            ("  features: ${", "  groups: ${"),
            ("  graph: ${graph.name}", "  dynamic: ${graph.dynamic}"),
            ("graph:\n  name: dynamic", "graph:\n  dynamic: true"),
        ),
        "run.json": (
            # Runs of then recorded it; it does not change the result.
            ('"protocol.features"', '"model.checkpoint": "False", "protocol.groups"'),
            ('"graph.name": "dynamic"', '"graph.dynamic": "True"'),
            ('"model.graph": "dynamic"', '"model.dynamic": "True"'),
        ),
    }.items():
        text = (folder / file).read_text()
        for new, old in pairs:
            assert new in text
            text = text.replace(new, old)
        (folder / file).write_text(text)
    for path in folder.glob("checkpoints/*.ckpt"):
        content = torch.load(path, weights_only=True)
        content["model_config"]["checkpoint"] = content["model_config"].pop("recompute")
        assert content["model_config"].pop("graph") == "dynamic"
        content["model_config"]["dynamic"] = True
        torch.save(content, path)
    assert isinstance(load_model(folder), torch.nn.Module)
    run("train", f"resume={folder}", "max_steps=7")
    config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
    assert config["model"]["recompute"] is False and "checkpoint" not in config["model"]
    assert config["model"]["graph"] == "${graph.name}" and "dynamic" not in config["model"]
    assert config["graph"]["name"] == "dynamic" and "dynamic" not in config["graph"]
    assert config["protocol"]["features"] == "${data.features}" and "groups" not in config["protocol"]
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["step"] == 7


def test_the_same_seed_gives_the_same_weights(trained, data_root, tmp_path):
    run("train", *TINY, f"data.root={data_root}", f"hydra.run.dir={tmp_path}/same")
    run("train", *TINY, f"data.root={data_root}", f"hydra.run.dir={tmp_path}/other", "seed=1")
    first, same, other = (
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["model"]
        for f in (trained[0], tmp_path / "same", tmp_path / "other")
    )
    assert tensors_equal(first, same)
    assert not tensors_equal(first, other)


def test_resume_auto_starts_or_goes_on(data_root, tmp_path):
    arguments = [*TINY, f"data.root={data_root}", f"hydra.run.dir={tmp_path}", "resume=auto"]
    run("train", *arguments)
    first = (tmp_path / "metrics.json").read_text()
    done = run("train", *arguments)
    assert "all 6 steps of max_steps=6 are done" in done.stderr
    assert (
        json.loads(first)["test"]["confusion"]
        == json.loads((tmp_path / "metrics.json").read_text())["test"]["confusion"]
    )


def test_multirun_gives_each_run_its_directory(data_root, tmp_path):
    run(
        "train",
        "-m",
        *TINY,
        f"data.root={data_root}",
        f"hydra.sweep.dir={tmp_path}",
        "backbone=plaingcn,densegcn",
        "depth=2,3",
        "max_steps=1",
    )
    found = [json.loads(path.read_text()) for path in tmp_path.glob("*/metrics.json")]
    assert len(found) == 4
    assert len({entry["parameters"] for entry in found}) > 1


def test_six_folds_trained_and_pooled(data_root, tmp_path):
    folds = "data.fold=1,2,3,4,5,6"
    run("train", "-m", *TINY, f"data.root={data_root}", f"hydra.sweep.dir={tmp_path}", folds, "max_steps=1")
    done = run("report", f"runs={tmp_path}", f"hydra.run.dir={tmp_path}/log")
    assert "pooled" in done.stdout
    text = (tmp_path / "report.md").read_text()
    assert "six-fold, pooled" in text
    # Published numbers are of S3DIS: they have no place beside synthetic rooms.
    assert "60.0" not in text
    for name in ("report.csv", "report.tex", "report.png"):
        assert (tmp_path / name).is_file()


def test_an_ablation_is_one_multirun(data_root, tmp_path):
    run(
        "train",
        *TINY,
        f"data.root={data_root}",
        f"hydra.sweep.dir={tmp_path}",
        "experiment=ablate_order",
        "max_steps=1",
    )
    run("report", f"runs={tmp_path}", f"hydra.run.dir={tmp_path}/log")
    header, *rows = (tmp_path / "report.csv").read_text().splitlines()
    assert header.startswith("order,mIoU (%)")
    assert [row.split(",")[0] for row in rows] == ["act-norm", "norm-act"]


def test_a_failed_job_does_not_end_a_multirun(data_root, tmp_path):
    done = run(
        "train",
        "-m",
        *TINY,
        f"data.root={data_root}",
        f"hydra.sweep.dir={tmp_path}",
        "k=5000,4",
        "max_steps=1",
        check=False,
    )
    assert done.returncode == 2
    assert "error: k=5000" in done.stderr
    assert len(list(tmp_path.glob("*/metrics.json"))) == 1


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("train", ["backbone=resgnc"], "backbone=resgnc: must be one of densegcn, plaingcn, resgcn, resgcnplus, revgcn"),
        ("train", ["depht=7"], "depht: no such setting; did you mean depth?"),
        ("train", ["lr=1"], "lr: no such setting; did you mean recipe.optimizer.lr?"),
        ("train", ["fold=1"], "fold: no such setting; did you mean data.fold?"),
        ("train", ["data.folds=1"], "data.folds: no such setting; did you mean data.fold?"),
        ("train", ["stride=1"], "stride: no such setting; did you mean data.grid.stride or protocol.stride?"),
        ("train", ["bakbone=x"], "bakbone: no such setting; did you mean backbone?"),
        ("train", ["qqq=1"], "qqq: no such setting; --help lists all settings"),
        ("train", ["+depht=7"], "depht: nothing reads this setting; did you mean depth?"),
        ("train", ["+data.colour=7"], "data.colour: nothing reads this setting"),
        ("train", ["+recipe.schedule.speed=7"], "recipe.schedule"),
        ("predict", ["inputs=x"], "inputs: no such setting; did you mean input?"),
        ("train", ["data.root=${data.name}"], "data.root=${data.name}: the name of this folder must not have ${"),
        ("train", ["data.root=${oc.env:NOT_SET}/s3dis"], "Environment variable 'NOT_SET' not found"),
        ("train", ["-m", "data.fold=glob(*)", "depth=2,3"], "data.fold=glob(*): no value, so that there is nothing to run"),
        ("evaluate", ["-m", "checkpoint=glob(*)"], "checkpoint=glob(*): no value, so that there is nothing to run"),
        ("train", ["data.fold=2024_05_12"], "data.fold=2024_05_12: must be one of 1..6"),
        ("train", ["k=5000"], "k=5000: must be at most points=4096"),
        ("train", ["data=s3dis", "data.root=/nowhere"], "data.root=/nowhere: no such folder"),
        ("train", ["resume=/nowhere"], "resume=/nowhere: not a run directory"),
        ("evaluate", [], "checkpoint is not set"),
        ("evaluate", ["protocol=recut", "protocol.votes=8"], "protocol.votes: no such setting; another choice of protocol has it"),
        ("train", ["protocol=recut", "+protocol.votes=8"], "protocol.votes=8: only with protocol=rooms or protocol=tta"),
        ("train", ["protocol=tta", "protocol.name=recut"], "protocol.votes=8: only with protocol=rooms or protocol=tta"),
        ("train", ["depth=["], "depth=[: cannot be read (no viable alternative at input '[')"),
        ("train", ["=3"], "=3: no setting stands before the =; settings are KEY=VALUE"),
        ("train", ["hydra.searchpath=[/nowhere]"], "hydra.searchpath=[/nowhere]: there is no folder /nowhere"),
        ("convert", ["checkpoint=README.md", "output=README.md/x.ckpt"], "output=README.md/x.ckpt: cannot be written"),
        ("report", [], "runs is not set"),
        ("benchmark", ["conv=gin"], "GIN: the official code has"),
        ("benchmark", ["measure=speed"], "measure=speed: must be one of network, gpu, parts"),
        ("benchmark", ["networks=[ours]"], "reference and ours must be among them"),
        ("benchmark", ["measure=small", "sizes=[[9,64,1,16,8]]"], "sizes: [9, 64, 1, 16, 8] is not depth, points"),
        ("benchmark", ["measure=scaling", "task=nap"], "task=nap: must be one of"),
        ("report", ["runs=docs"], "no run directories"),
        ("evaluate", ["checkpoint=/nowhere.ckpt"], "checkpoint /nowhere.ckpt: no such file"),
        ("prepare", ["source=/nowhere", "data.root=/tmp/x"], "source=/nowhere: no such folder"),
        ("convert", ["checkpoint=/nowhere.pth", "output=/tmp/x.ckpt"], "/nowhere.pth"),
        ("prepare", ["source=/nowhere", "data.root=/tmp/x", "shard=a/b"], "shard=a/b: must be I/N"),
        ("convert", ["checkpoint=/nowhere.pth", "output=/tmp/x.ckpt", "conv=edge", "act=foo"], "act=foo: must be one of"),
        ("predict", ["checkpoint=5", "input=README.md", "output=/tmp/x/"], "checkpoint 5: no such file"),
        ("predict", ["checkpoint=x", "a b.ply"], "error: a b.ply is no setting: write input=a b.ply"),
        ("train", ["quickstart"], "error: quickstart is no setting: settings are KEY=VALUE"),
        ("predict", ["checkpoint=x", "input=", "output=y"], "error: input is empty: must be a file or folder"),
        ("train", ["+recipe.optimizer.weightdecay=1"], "weightdecay: no such setting; did you mean recipe.optimizer.weight_decay?"),
        ("train", ["+recipe.optimizer.foo=1"], "error: recipe.optimizer.foo: no such setting; known are lr, betas"),
        ("convert", ["checkpoint=/nope.pth", "output=/tmp/x.ckpt"], "error: checkpoint /nope.pth: no such file"),
        ("convert", ["checkpoint=README.md", "output=/tmp/x.ckpt"], "README.md"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tool, arguments, message, tmp_path):
    done = run(tool, *arguments, f"hydra.run.dir={tmp_path}", f"hydra.sweep.dir={tmp_path}", check=False)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert lines == [line for line in lines if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]


def test_an_experiment_that_sweeps_over_nothing_is_one_line(tmp_path):
    (tmp_path / "experiment").mkdir()
    sweep = "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      depth: range(5,1)\n"
    (tmp_path / "experiment" / "none.yaml").write_text(f"# @package _global_\n{sweep}")
    given = [f"--config-dir={tmp_path}", "experiment=none", f"hydra.sweep.dir={tmp_path}/sweep"]
    done = run("train", *given, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: depth=range(5,1): no value, so that there is nothing to run")


@pytest.mark.parametrize("swept", ["ablate_k,quickstart", "quickstart,ablate_k", "glob(ablate_k*)"])
def test_a_sweep_over_an_experiment_that_sweeps_itself_is_one_line(swept, tmp_path):
    done = run("train", "-m", f"experiment={swept}", f"hydra.sweep.dir={tmp_path}/sweep", check=False)
    assert done.returncode == 2
    assert done.stderr == "error: experiment=ablate_k: is a multirun of its own, over k; run it alone\n"
    assert not (tmp_path / "sweep").exists()


def test_an_experiment_that_sweeps_takes_further_sweeps(data_root, tmp_path):
    """Also one whose own sweep is typed, so that each job has a value."""
    sweep = ["-m", *TINY, f"data.root={data_root}", "max_steps=1", "pages=false"]
    both = run("train", *sweep, "experiment=ablate_order", "seed=0,1", f"hydra.sweep.dir={tmp_path}/a")
    assert len(list((tmp_path / "a").glob("*/metrics.json"))) == 4, both.stderr
    typed = ["experiment=ablate_order,quickstart", "model.order=act-norm"]
    done = run("train", *sweep, *typed, f"hydra.sweep.dir={tmp_path}/b")
    # With all that is typed, both jobs are one run, which is not trained twice.
    assert f"{tmp_path}/b/0_resgcn2: finished before" in done.stderr


def test_what_the_data_set_is_not_silently_replaced(data_root, tmp_path):
    known = [*TINY, f"data.root={data_root}", f"hydra.run.dir={tmp_path}"]
    done = run("train", *known, "model.num_classes=2", check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: model.num_classes=2: the data set it, here to 13")


def test_an_added_setting_that_another_refers_to_is_read(tmp_path):
    given = ["+width=4", "k=${width}", "+recipe.optimizer.eps=1e-6", "++depth=2", "data=s3dis", "data.root=/nowhere"]
    done = run("train", *given, f"hydra.run.dir={tmp_path}", check=False)
    assert done.stderr.startswith("error: data.root=/nowhere: no such folder")


def test_a_run_whose_directory_has_any_name_goes_on_and_is_scored(data_root, tmp_path):
    folder = tmp_path / "läuf (1), x=[2] {a} 'q' #3 $1"
    done = run("train", *TINY, f"data.root={data_root}", f"hydra.run.dir={folder}", "max_steps=2")
    printed = done.stderr.rsplit("Run directory: ", 1)[1].strip()
    assert printed == str(folder)
    done = run("train", f"resume={printed}", "max_steps=4")
    assert f"Going on from {folder}/checkpoints/last.ckpt at step 2 of 4" in done.stderr
    run("evaluate", f"checkpoint={printed}", "device=cpu", f"hydra.run.dir={tmp_path}/2024 (1)")
    assert (tmp_path / "2024 (1)" / "metrics.json").is_file()
    run("report", f"runs={printed}", f"output={tmp_path}/1e5", f"hydra.run.dir={tmp_path}/log")
    assert (tmp_path / "1e5" / "report.html").is_file()


def test_output_that_nobody_reads_ends_quietly():
    # The reader ends before there is anything to read.
    command = f"{sys.executable} tools/train.py --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert (done.stderr, done.returncode) == ("", 141)


def left(folder):
    """Contents of a run's small files, by name."""
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.suffix in (".yaml", ".json", ".txt")}


def test_a_run_is_not_overwritten(trained, data_root):
    before = left(trained[0])
    done = run("train", *TINY, "seed=1", f"data.root={data_root}", f"hydra.run.dir={trained[0]}", check=False)
    assert done.returncode == 2
    assert "already holds a run" in done.stderr
    assert left(trained[0]) == before


def test_a_directory_has_one_training_at_a_time(data_root, tmp_path):
    """Also when it is to be resumed; the lock ends with its process, not with what that started."""
    tiny = [*TINY, "save_every=1", "workers=1", f"data.root={data_root}"]
    command = [sys.executable, str(ROOT / "tools" / "train.py"), *tiny, "max_steps=100000", "epochs=100000"]
    first = subprocess.Popen(
        [*command, f"hydra.run.dir={tmp_path}"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "checkpoints" / "last.ckpt").is_file():
            assert time.monotonic() < deadline and first.poll() is None
            time.sleep(0.1)
        before = left(tmp_path)
        for second in ([*tiny, "seed=1", f"hydra.run.dir={tmp_path}"], [f"resume={tmp_path}", "max_steps=7"]):
            done = run("train", *second, check=False)
            assert done.returncode == 2
            lines = done.stderr.strip().splitlines()
            assert len(lines) == 1
            assert f"error: {tmp_path}: another command writes here (process {first.pid} on " in lines[0]
        assert left(tmp_path) == before
    finally:
        first.kill()
        first.wait()
    step = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["step"]
    run("train", f"resume={tmp_path}", f"max_steps={step + 1}")


@pytest.mark.parametrize("tool", ["train", "evaluate", "prepare", "convert", "export", "report", "benchmark"])
def test_help(tool):
    assert f"tools/{tool}.py" in run(tool, "--help").stdout


def test_cfg_job_shows_the_composition():
    assert "connection: dense" in run("train", "backbone=densegcn", "--cfg", "job").stdout


@pytest.mark.parametrize("options", [["--cfg", "hydra", "--resolve"], ["--resolve", "-c=hydra"]])
def test_cfg_hydra_is_resolved_by_the_settings_of_the_command(options):
    assert "  dir: outputs/densegcn14/" in run("train", "backbone=densegcn", "depth=14", *options).stdout


def test_a_ctrl_c_after_the_end_does_not_change_the_status():
    code = """if 1:
        import os, signal, sys
        from pathlib import Path
        from deepgcn_seg.commands.command_line import main
        from deepgcn_seg.errors import Interrupted

        def stopped(*_):
            raise Interrupted("stopped at step 3")

        main.hydra_arguments = stopped
        main.leave = lambda: os.kill(os.getpid(), signal.SIGINT)
        sys.argv = ["train"]
        main.command(None, Path("conf"), "train")
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (75, "stopped at step 3\n")


def test_sweeps_that_begin_together_keep_the_record_of_the_one_before(tmp_path, monkeypatch):
    record = tmp_path / "multirun.yaml"
    record.write_text("first")
    (tmp_path / "multirun_1.yaml").write_text("of another sweep")
    # That other sweep has taken the number since this one looked.
    monkeypatch.setattr(Path, "exists", lambda path: False)
    sweeps._keep_record(record, "second")
    assert (tmp_path / "multirun_1.yaml").read_text() == "of another sweep"
    assert (tmp_path / "multirun_2.yaml").read_text() == "first"


def test_a_network_that_does_not_fit_is_a_dash_not_a_hang():
    from deepgcn_seg.benchmark.timing import alone

    settings = {"conv": "edge", "connection": "res", "depth": 1, "channels": 8, "k": 4}
    # A distance matrix of 640 GB.
    times, peak = alone("reference", settings, "inference", 1, 400_000, "cpu")
    assert times == [] and peak != peak
