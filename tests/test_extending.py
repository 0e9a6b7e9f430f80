"""A connection, a convolution and a graph of a user's own, from outside the package."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deepgcn_seg import DeepGCN, load_model
from deepgcn_seg.data.classes import S3DIS
from deepgcn_seg.errors import UserError
from deepgcn_seg.model import Connection, DynamicGraph, LayerSpec, Pointwise
from deepgcn_seg.model.checkpoint import save_checkpoint
from deepgcn_seg.model.description import describe_network
from deepgcn_seg.model.summary import summarize
from deepgcn_seg.ops import gather_neighbors

SMALL = {"depth": 4, "channels": 8, "k": 4, "fusion_channels": 16, "head_channels": (16, 8)}


class Halved(Connection):
    """(x + h) / 2."""

    name = "halved"

    def combine(self, x, h):
        return (x + h) / 2


class Growing(Connection):
    """[x ; h] with h in front, so that no output begins with the one before."""

    name = "growing"

    def combine(self, x, h):
        return torch.cat([h, x], -1)

    def width(self, layer, channels):
        return channels * (layer + 1)


class MeanConv(nn.Module):
    """layer(W [x_i ; mean_j (x_j - x_i)])"""

    def __init__(self, in_channels, out_channels, spec=LayerSpec()):
        super().__init__()
        self.layer = Pointwise(2 * in_channels, out_channels, spec)

    def forward(self, x, index, mask=None):
        return self.layer(torch.cat([x, gather_neighbors(x, index).mean(2) - x], -1), mask)


class FarMeanConv(MeanConv):
    """layer(W [x_i ; mean_j |p_j - p_i| (x_j - x_i)]), with positions p."""

    reads_geometry = True

    def forward(self, x, index, mask=None, geometry=None):
        positions = geometry.positions
        distance = (gather_neighbors(positions, index) - positions[:, :, None]).norm(dim=-1, keepdim=True)
        relative = gather_neighbors(x, index) - x[:, :, None]
        return self.layer(torch.cat([x, (distance * relative).mean(2)], -1), mask)


class RandomGraph(DynamicGraph):
    """Any k points are neighbours: the same for all layers of a pass."""

    def neighbors(self, layers, positions, mask):
        batch, count, _ = positions.shape
        index = torch.randint(count, (batch, count, self.k), generator=torch.Generator().manual_seed(0))
        return lambda i, x: index


class OwnNet(DeepGCN):
    """A network whose connection and graph no description could hold."""

    def __init__(self, **settings):
        super().__init__(connection=Halved(), dynamic=RandomGraph, **settings)


@pytest.fixture
def mine(monkeypatch):
    """A module of the user's, with all of these."""
    module = ModuleType("mine_of_extending")
    for part in (MeanConv, OwnNet):
        own = type(part.__name__, (part,), {"__module__": module.__name__})
        setattr(module, part.__name__, own)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize(
    "own",
    [
        {"connection": Halved()},
        {"connection": Growing()},
        {"conv": MeanConv},
        {"conv": FarMeanConv},
        {"dynamic": RandomGraph},
        {"connection": Growing(), "conv": MeanConv, "dynamic": RandomGraph},
    ],
    ids=["residual connection", "growing connection", "convolution", "convolution of positions", "graph", "all three"],
)
def test_a_part_of_ones_own_trains_and_evaluates(own):
    model = DeepGCN(**SMALL, **own)
    optimizer, points = torch.optim.Adam(model.parameters()), torch.rand(2, 600, 9)
    before = [parameter.clone() for parameter in model.parameters()]
    F.cross_entropy(model(points).flatten(0, 1), torch.randint(13, (1200,))).backward()
    optimizer.step()
    assert not any(torch.equal(*pair) for pair in zip(before, model.parameters()))
    model.eval()
    with torch.no_grad():
        lean = model(points)
    # Gradients wanted, the ordinary pass is taken.
    assert torch.allclose(lean, model(points), atol=1e-5)
    assert summarize(model).flops > 0
    widths = [8, 16, 24, 32] if isinstance(own.get("connection"), Growing) else [8] * 4
    assert [layer.shape[-1] for layer in model.features(points)] == widths


def test_what_ones_own_connection_and_graph_compute():
    model = DeepGCN(**SMALL, connection=Halved(), dynamic=RandomGraph).eval()
    points = torch.rand(1, 30, 9)
    index = RandomGraph(4).neighbors(None, points, None)(0, points)
    x = model.backbone.head(points, index)
    for block, found in zip(model.backbone.blocks, model.features(points)[1:]):
        x = (x + block.conv(x, index)) / 2
        assert torch.allclose(found, x)


def test_a_convolution_of_ones_own_is_saved_and_loaded_where_it_is_trusted(tmp_path, mine):
    config = {"_target_": "deepgcn_seg.DeepGCN", **SMALL, "conv": {"_target_": "mine_of_extending.MeanConv"}}
    model = DeepGCN(**SMALL, conv=mine.MeanConv).eval()
    saved_and_loaded(tmp_path / "a.ckpt", model, config)


def test_a_network_with_a_connection_and_a_graph_of_ones_own_is_saved_and_loaded(tmp_path, mine):
    model = mine.OwnNet(**SMALL).eval()
    saved_and_loaded(tmp_path / "a.ckpt", model, {"_target_": "mine_of_extending.OwnNet", **SMALL})


def test_a_network_of_ones_own_from_before_arguments_were_renamed_is_loaded(tmp_path, mine):
    model = mine.OwnNet(**SMALL).eval()
    old = {"_target_": "mine_of_extending.OwnNet", **SMALL, "checkpoint": True}
    saved_and_loaded(tmp_path / "a.ckpt", model, old)


def saved_and_loaded(path, model, config):
    save_checkpoint(path, model, describe_network(config), S3DIS)
    with pytest.raises(UserError, match=r"trusted=\[mine_of_extending\]"):
        load_model(path)
    points = torch.rand(1, 40, 9)
    assert torch.equal(load_model(path, trusted=["mine_of_extending"])(points), model(points))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"connection": Halved()}, "model_config.connection=.*cannot hold a connection of your own"),
        ({"connection": {"_target_": "mine.Halved"}}, "model_config.connection=.*cannot hold a connection of your own"),
        ({"dynamic": RandomGraph}, "model_config.dynamic=.*cannot hold a graph of your own"),
    ],
)
def test_what_a_description_cannot_hold_is_named(tmp_path, own, message):
    model = DeepGCN(**SMALL)
    with pytest.raises(UserError, match=message):
        save_checkpoint(
            tmp_path / "a.ckpt", model, describe_network({"_target_": "deepgcn_seg.DeepGCN", **SMALL, **own}), S3DIS
        )
    assert not list(tmp_path.iterdir())


def test_help_shows_the_settings():
    import inspect

    own = inspect.signature(DeepGCN).parameters
    for build, depth in ((DeepGCN.resgcn, 28), (DeepGCN.revgcn, 112), (DeepGCN.plaingcn, 28)):
        shown = inspect.signature(build).parameters
        assert shown.keys() == own.keys() - {"connection"}
        assert shown["depth"].default == depth and shown["channels"].default == own["channels"].default
    assert inspect.signature(DeepGCN.plaingcn).parameters["dilation"].default == "none"
