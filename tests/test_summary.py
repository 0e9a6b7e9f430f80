from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from torch_geometric.nn import SAGEConv

from deepgcn_seg import DeepGCN
from deepgcn_seg.model import MessagePassing
from deepgcn_seg.model.summary import summarize

SMALL = {"channels": 8, "k": 4, "fusion_channels": 16, "head_channels": (16, 8)}


@pytest.mark.parametrize("connection", ["plain", "res", "dense", "res+", "rev"])
def test_parameters_and_flops_are_counted(connection):
    model = DeepGCN(connection=connection, depth=4, **SMALL).eval()
    summary = summarize(model, points=64)
    assert summary.parameters == sum(p.numel() for p in model.parameters())
    assert summary.edges == 4 * 64 * 4
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 64, 9))
    search = next(part.flops for part in summary.parts if part.name == "neighbour search")
    # Neighbour search is one custom operation, which the counter does not look into.
    assert summary.flops - search == counter.get_total_flops()


def test_linear_maps_of_torch_geometric_are_counted():
    conv = partial(MessagePassing, operator=SAGEConv)
    model = DeepGCN(depth=3, conv=conv, **SMALL).eval()
    summary = summarize(model, points=64)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 64, 9))
    search = next(part.flops for part in summary.parts if part.name == "neighbour search")
    assert summary.flops - search == counter.get_total_flops()


def test_a_class_that_is_only_named_linear_is_no_linear_map():
    class Linear(torch.nn.Module):
        """A part of a user's own, without a weight."""

    model = DeepGCN(depth=2, **SMALL)
    before = summarize(model).flops
    model.head.rest.append(Linear())
    assert summarize(model).flops == before


def test_resgcn_28():
    summary = summarize(DeepGCN())
    # 27 searches over 64 channels and one over 3, of 4096 x 4096 pairs.
    assert next(p.flops for p in summary.parts if p.name == "neighbour search") == 2 * 4096**2 * (27 * 64 + 3)
    assert "3,644,301" in "".join(str(cell) for column in summary.table().columns for cell in column._cells)
