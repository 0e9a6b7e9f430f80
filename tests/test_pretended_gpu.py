"""Everything runs with a GPU, as far as that can be seen without one (:mod:`pretended_gpu`)."""

import logging
from functools import partial

import pytest
import torch
from omegaconf import OmegaConf
from pretended_gpu import pretended_gpus  # noqa: F401 - a fixture
from test_commands import TINY, data_root  # noqa: F401
from torch.nn import functional as F

import deepgcn_seg
from deepgcn_seg import DeepGCN, UserError, ops
from deepgcn_seg.benchmark import parts, timing
from deepgcn_seg.commands import train
from deepgcn_seg.device import device as device_of
from deepgcn_seg.distributed import World, declared
from deepgcn_seg.model import EdgeConv, fast_inference
from deepgcn_seg.model.connection import CONNECTIONS
from deepgcn_seg.model.convolution import CONVOLUTIONS, GENConv
from deepgcn_seg.model.layers import sync_norms

SMALL = {"depth": 4, "channels": 8, "k": 3, "fusion_channels": 16, "head_channels": (16, 8)}
NETWORKS = [
    *({"connection": name} for name in CONNECTIONS),
    *({"conv": kind} for kind, _ in CONVOLUTIONS.values()),
    {"conv": partial(GENConv, aggregation="power", message_norm=True, mlp_layers=2)},
    {"order": "act-norm", "act": "prelu"},
    {"graph": "fixed", "epsilon": 1.0},
    {"norm": "instance", "loop": False},
    {"norm": "layer", "act": "gelu", "connection": "dense"},
    {"recompute": True, "block_dropout": 0.1},
    {"connection": "rev", "block_dropout": 0.1},
]


def on_gpu(*, masked, dtype, device="cuda:0", **settings):
    """Do a training step and an inference of a network; return the step's gradients."""
    torch.manual_seed(0)
    model = DeepGCN(**SMALL, **settings).to(device)
    points, labels = torch.rand(2, 40, 9, device=device), torch.randint(13, (2, 40), device=device)
    mask = (torch.arange(40, device=device) < 33).expand(2, -1) if masked else None
    optimizer = torch.optim.AdamW(model.parameters())
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == "bf16"):
        logits = model(points, mask)
    F.cross_entropy(logits.float().flatten(0, 1), labels.flatten()).backward()
    optimizer.step()
    with torch.inference_mode():
        logits = model.eval()(points, mask)
        if fast_inference.applies(model):
            logits = fast_inference.infer(model, points, mask, fast_inference.Sizes(40, 16))
    assert logits.device == torch.device(device) and torch.isfinite(logits).all()
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("settings", NETWORKS, ids=str)
def test_a_network_stays_on_its_gpu(settings, masked, dtype, pretended_gpus):  # noqa: F811
    gradients = on_gpu(masked=masked, dtype=dtype, **settings)
    assert {gradient.device for gradient in gradients} == {torch.device("cuda:0")}
    assert "_candidates" in pretended_gpus.launches


@pytest.mark.parametrize("connection", ["dense", "rev"])
def test_kernels_run_on_the_gpu_of_their_tensors(connection, pretended_gpus):  # noqa: F811
    """``device=cuda:1`` does not change the current one, on which Triton launches."""
    on_gpu(masked=True, dtype="fp32", device="cuda:1", connection=connection, conv=EdgeConv)
    assert "_extremum_backward" in pretended_gpus.launches and pretended_gpus.current == 0


def test_tensors_on_two_devices_are_an_error(pretended_gpus):  # noqa: F811
    with pytest.raises(RuntimeError, match=r"aten::mm: tensors on different devices: \(2, 2\) on cuda:0, .* on cpu"):
        torch.rand(2, 2, device="cuda") @ torch.rand(2, 2)


def test_as_many_points_as_memory_holds(pretended_gpus):  # noqa: F811
    """Only the first dimension of a grid may be larger than 65535."""
    count = 16 * 65536
    x = torch.rand(1, count, 1, device="cuda", requires_grad=True)
    index = torch.zeros(1, count, 1, dtype=torch.int64, device="cuda")
    one = torch.ones(1, device="cuda")
    out, mean, var = ops.edge_extremum(x, torch.ones(1, 2, device="cuda"), None, index, slope=one)
    (out.sum() + mean.sum() + var.sum()).backward()
    assert x.grad.shape == x.shape


def test_a_card_that_is_too_small_for_a_kernel_is_left_to_pytorch(pretended_gpus, monkeypatch, caplog):  # noqa: F811
    from triton import OutOfResources

    from deepgcn_seg.ops.gpu import search

    calls = []

    def too_large(*arguments):
        calls.append(arguments)
        raise OutOfResources(131072, 65536, "shared memory")

    monkeypatch.setattr(search, "search", too_large)
    points, ranks = torch.rand(1, 30, 3).cuda(), torch.arange(4)
    made = {name: ops.backends._operations(name) for name in ("torch", "triton")}
    monkeypatch.setattr(ops.backends, "_operations", made.__getitem__)
    with caplog.at_level(logging.WARNING, "deepgcn_seg"):
        found = [ops.nearest_ranks(points, ranks).cpu() for _ in range(2)]
    with ops.backend("torch"):
        expected = ops.nearest_ranks(points.cpu(), ranks)
    assert all(torch.equal(each, expected) for each in found)
    assert len(calls) == 1 and "shared memory" in caplog.text
    with ops.backend("triton"), pytest.raises(OutOfResources):
        ops.nearest_ranks(points, ranks)


def test_commands_stay_on_their_gpu(data_root, raw_rooms, tmp_path, pretended_gpus):  # noqa: F811
    """With everything that is on a GPU besides the network: averages, class weights, statistics, states, scores."""
    tiny = [*TINY, f"data.root={data_root}", "protocol=recut", "device=auto"]
    settings = ["recipe.class_weights=sqrt", "recipe.loss={cross_entropy: 1, focal: 1, lovasz: 1}", "recipe.ema=0.9"]
    settings += ["accumulate=2", "precision=bf16", "validate_every=1", f"hydra.run.dir={tmp_path}/run"]
    deepgcn_seg.train(*tiny, *settings, "max_steps=1")
    run = deepgcn_seg.train(f"resume={tmp_path}/run", "max_steps=2", "device=cuda:1")
    assert run.metrics["training"]["steps"] == 2
    tuned = [f"weights={run.directory}", "freeze=[backbone]", f"hydra.run.dir={tmp_path}/tuned"]
    deepgcn_seg.train(*tiny, *tuned, "max_steps=1")
    both = f"checkpoint=[{run.directory},{tmp_path}/tuned]"
    deepgcn_seg.evaluate(both, "protocol=recut", "device=cuda:1", f"hydra.run.dir={tmp_path}/scores")
    scan = raw_rooms / "Area_5" / "office_1" / "office_1.txt"
    written = [f"output={tmp_path}/a.ply", f"hydra.run.dir={tmp_path}/log"]
    deepgcn_seg.predict(f"checkpoint={run.directory}", f"input={scan}", "device=cuda", *written)
    assert "_candidates" in pretended_gpus.launches and pretended_gpus.current == 0


def test_measurements_are_those_of_the_gpu_that_is_named(pretended_gpus):  # noqa: F811
    device = torch.device("cuda:1")
    settings = {"connection": "res", "conv": "edge", "depth": 2, "channels": 8, "k": 3, "precision": "fp32"}
    timing._alone("ours", settings, "step", 1, 64, "cuda:1", 1)
    parts.peak_flops(device, 8)
    parts.peak_bandwidth(device, 1)
    assert pretended_gpus.asked == {device}


def test_each_process_has_a_gpu_of_its_own(pretended_gpus, monkeypatch):  # noqa: F811
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(train, "join", lambda device: declared())
    settings = OmegaConf.create({"device": "auto", "devices": 2})
    assert train._join_processes(settings)[0] == torch.device("cuda:1") and pretended_gpus.current == 1
    settings.devices = 3
    with pytest.raises(UserError, match="devices=3: PyTorch finds 2 GPUs here, and each process needs one of its own"):
        train._join_processes(settings)


def test_processes_exchange_tensors_of_their_gpu(pretended_gpus, monkeypatch):  # noqa: F811
    """NCCL takes no others."""
    device, world, exchanged = torch.device("cuda:1"), World(rank=1, size=2, local=1), []
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: exchanged.append(tensor.device))
    monkeypatch.setattr("torch.distributed.broadcast", lambda tensor, source: exchanged.append(tensor.device))
    model = DeepGCN(**SMALL).to(device)
    sync_norms(model)
    model(torch.rand(2, 40, 9, device=device)).sum().backward()
    world.average_gradients(model)
    world.share_buffers(model)
    assert set(exchanged) == {device} and len(exchanged) > len(list(model.buffers()))


def test_a_gpu_that_pytorch_cannot_use_is_named_before_any_work(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", lambda *size, device: torch.empty(*size, device="meta").item())
    for name, hint in (("auto", "; device=cpu needs no GPU"), ("cpu", "")):
        with pytest.raises(
            UserError, match=rf"^device={name}: Tensor.item\(\) cannot be called on meta tensors{hint}$"
        ):
            device_of(name)
