"""``measure=gpu``: its checks of kernels find wrong ones, and its lines are there whatever fails (dry, on a CPU)."""

import json
import math
import os
import signal
from pathlib import Path

import hydra
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from test_commands import data_root, run  # noqa: F401 - a fixture

from deepgcn_seg import ops
from deepgcn_seg.benchmark import gpu, kernels, profiling
from deepgcn_seg.errors import UserError

CPU = torch.device("cpu")
TINY = ["measure=gpu", "depth=2", "channels=8", "k=3", "points=64", "repeats=1", "device=cpu", "gpu.blocks=2"]
TINY += ["gpu.sizes=[12]", "gpu.depth=3", "gpu.clouds=[70]", "gpu.minutes=0.0001"]


def test_all_parts_on_a_cpu(tmp_path, data_root, triton_kernels):  # noqa: F811
    """The kernels' part runs Triton's, step by step."""
    store = [f"data.root={data_root}", "data.store.rooms_per_area=1", "data.store.density=60"]
    done = run("benchmark", *TINY, *store, f"hydra.run.dir={tmp_path}", env={"TRITON_INTERPRET": "1"})
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["failed"] == {} and "triton" in content["measured"]
    found = {}
    for line in content["lines"]:
        assert line["what"] in done.stdout
        found.setdefault(line["part"], {})[line["what"]] = line["value"]
    assert list(found) == ["kernels", "network", "passes", "search", "others", "training"]
    assert all(math.isfinite(float(value)) for values in found.values() for value in values.values())
    assert {"search, 12 x 8, random, d 1, masked", "neighbor_max, 12 x 8, bfloat16"} <= set(found["kernels"])
    times = found["network"]
    faster = times["step, reference"] / times["step, ours"]
    assert times["step, times faster"] == pytest.approx(faster)
    whole = found["passes"]["inference: whole pass"]
    assert 0 < found["passes"]["inference: all searches"] < 10 * whole
    assert {"2 x 64 x 8, d 1: ours", "2 x 64 x 8, d 1: product and topk"} <= set(found["search"])
    assert {"bf16: step", "3 layers: step", "one cloud of 70 points: inference"} <= set(found["others"])
    assert 0 <= found["training"]["share of the time that steps wait for data"] <= 1
    assert (tmp_path / "training" / "metrics.json").is_file()


def test_a_part_that_fails_is_named_and_the_next_one_goes_on(tmp_path):
    # A cloud of two points has too few for a search.
    parts = ["gpu.parts=[others,search]", "gpu.clouds=[2]"]
    done = run("benchmark", *TINY, *parts, f"hydra.run.dir={tmp_path}", check=False)
    assert "failed: others" in done.stderr and "Traceback" in done.stderr
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["failed"]["others"].startswith("one cloud of 2 points: ValueError: a block has 2 points")
    lines = [line["part"] for line in content["lines"] if line["unit"] == "ms" or line["what"] == "bf16: step"]
    assert {"others", "search"} == set(lines)
    # A second measurement in the same directory would replace the first.
    again = run("benchmark", *TINY, "gpu.parts=[passes]", f"hydra.run.dir={tmp_path}", check=False)
    assert "has another measurement: give another hydra.run.dir" in again.stderr
    assert json.loads((tmp_path / "gpu.json").read_text()) == content


def test_data_that_cannot_be_used_are_named_before_any_part(tmp_path):
    parts = ["gpu.parts=[search,training]", "data=s3dis", f"data.root={tmp_path}/missing"]
    done = run("benchmark", *TINY, *parts, f"hydra.run.dir={tmp_path}/out", check=False)
    assert done.returncode == 2 and "missing" in done.stderr
    assert not (tmp_path / "out" / "gpu.json").exists()


def test_a_part_that_takes_too_long_is_stopped(tmp_path):
    done = run("benchmark", *TINY, "gpu.parts=[search]", "gpu.limit=0.1", f"hydra.run.dir={tmp_path}", check=False)
    assert "failed: search" in done.stderr and "stopped after 0.1 s" in done.stdout


def _killed(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_part_whose_process_dies_is_named_and_the_next_one_goes_on(tmp_path, monkeypatch):
    """As one does in whose kernels an error occurred."""
    overrides = ["measure=gpu", *TINY, "gpu.parts=[search,passes]", f"hydra.runtime.output_dir={tmp_path}"]
    with hydra.initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
        config = hydra.compose("benchmark", [*overrides, "hydra.mode=RUN"], return_hydra_config=True)
    # Afterwards there is none again.
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    HydraConfig.instance().set_config(config)
    monkeypatch.setattr(gpu, "_search", _killed)
    with pytest.raises(UserError, match="failed: search"):
        gpu.measure_gpu(config)
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert list(content["failed"]) == ["search"]
    assert any(line["part"] == "passes" and line["unit"] == "ms" for line in content["lines"])


def test_an_unknown_part_is_refused(tmp_path):
    done = run("benchmark", *TINY, "gpu.parts=[speed]", f"hydra.run.dir={tmp_path}", check=False)
    assert "gpu.parts: speed is none of kernels, network" in done.stderr


def test_the_time_of_a_pass_is_that_of_its_parts():
    """Of a GPU's kernels by their own names, of a CPU's by those of the operations."""
    points, weight = torch.rand(1, 64, 8), torch.rand(8, 8)
    action = lambda: (ops.nearest_ranks(points, torch.arange(4)), (points[0] @ weight).relu())
    spent = profiling.seconds_by_kind(action, CPU)
    assert set(spent) == {"neighbour search", "linear maps", profiling.OTHER}
    of_gpu = {profiling._kind_of(name): 1.0 for name in ("_split", "_select_listed", "sm80_xmma_gemm_f32", "copy")}
    parts = {"neighbour search": 2, "edge aggregation": 0, "linear maps": 1, profiling.OTHER: 1}
    assert profiling.seconds_by_part(of_gpu) == parts


@pytest.fixture
def on_cpu(monkeypatch):
    """The kernels of the CPU are checked: Triton's interpreter takes a tenth of a second for each query."""
    monkeypatch.setattr(kernels, "backend_to_check", lambda device: "auto")


def test_right_kernels_have_no_error_to_speak_of(on_cpu):
    checks = list(kernels.check_kernels(CPU, 60, 8, 4, [1, 3]))
    assert all(check.passed for check in checks), [check for check in checks if not check.passed]
    assert len(checks) == 2 + 2 + 4 + 4 + 2


NEAREST = ops.nearest_ranks
WRONG_SEARCHES = {
    "another point": lambda *args: torch.cat([NEAREST(*args)[..., :-1], NEAREST(*args)[..., -1:] * 0 + 7], -1),
    "the next rank": lambda points, ranks, mask, loop: NEAREST(points, ranks + 1, mask, loop),
    "a point twice": lambda *args: NEAREST(*args)[..., [0, 1, 1]],
    "loops": lambda points, ranks, mask, loop: NEAREST(points, ranks, mask, True),
    "the mask": lambda points, ranks, mask, loop: NEAREST(points, ranks, None, loop),
}


@pytest.mark.parametrize("wrong", WRONG_SEARCHES)
def test_a_wrong_search_is_found(wrong, on_cpu, monkeypatch):
    points = torch.randn(2, 50, 3)
    mask = torch.rand(2, 50) < 0.7
    assert kernels.search_error(points, 3, 2, mask, False) <= kernels.DISTANCE_TOLERANCE
    monkeypatch.setattr(kernels.ops, "nearest_ranks", WRONG_SEARCHES[wrong])
    assert kernels.search_error(points, 3, 2, mask, False) > 10 * kernels.DISTANCE_TOLERANCE


@pytest.mark.parametrize("masked", [False, True])
def test_wrong_aggregation_is_found(masked, on_cpu, monkeypatch):
    mask = torch.rand(2, 30) < 0.7 if masked else None
    arguments = CPU, 30, 5, 4
    plain, edges = ops.neighbor_max, ops.edge_extremum

    def off(x, *args, **settings):
        out, mean, variance = edges(x, *args, **settings)
        return out, mean * (1 + 1e-3 * (x.dtype == torch.float32)), variance

    assert kernels.edge_error(*arguments, mask, torch.Generator()) < 1e-5
    assert kernels.extremum_error(*arguments, torch.float32, mask, torch.Generator()) < 1e-5
    monkeypatch.setattr(kernels.ops, "edge_extremum", off)
    assert kernels.edge_error(*arguments, mask, torch.Generator()) > 5e-4
    # The value is right, and the gradient is not.
    share = lambda x: 1.0 if x.dtype == torch.float64 else 0.9
    wrong = lambda x, *args: plain(x.detach() + share(x) * (x - x.detach()), *args)
    monkeypatch.setattr(kernels.ops, "neighbor_max", wrong)
    assert kernels.extremum_error(*arguments, torch.float32, mask, torch.Generator()) > 5e-2
