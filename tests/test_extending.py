"""A connection, a convolution and a graph of a user's own, from outside the package."""

import sys
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Literal

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from test_config import composed
from torch import nn
from torch.nn import functional as F

from deepgcn_seg import DeepGCN, load_model
from deepgcn_seg.commands.command_line.checks import check
from deepgcn_seg.data.classes import S3DIS
from deepgcn_seg.errors import PartError, UserError
from deepgcn_seg.model import CONNECTIONS, GRAPHS, Connection, Graph, LayerSpec, Pointwise, convolution
from deepgcn_seg.model.checkpoint import save_checkpoint
from deepgcn_seg.model.connection import Reversible
from deepgcn_seg.model.description import describe_network
from deepgcn_seg.model.summary import summarize
from deepgcn_seg.ops import gather_neighbors, nearest_ranks
from deepgcn_seg.schema import Schema

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


class RandomGraph(Graph):
    """Any k points are neighbours: the same for all layers of a pass."""

    def neighbors(self, graphs, positions, mask):
        batch, count, _ = positions.shape
        index = torch.randint(count, (batch, count, self.k), generator=torch.Generator().manual_seed(0))
        return lambda i, x: index


@dataclass(frozen=True, kw_only=True)
class RadiusGraph(Graph):
    """The k nearest points by position, but those beyond a radius, whose place the point itself takes."""

    radius: float = 0.2
    strict: bool = False

    def __post_init__(self):
        if self.radius <= 0:
            raise ValueError(f"radius={self.radius}: must be above 0")

    def neighbors(self, graphs, positions, mask):
        nearest = nearest_ranks(positions, torch.arange(self.k), mask, self.loop)
        distance = (gather_neighbors(positions, nearest) - positions[:, :, None]).norm(dim=-1)
        near = distance < self.radius if self.strict else distance <= self.radius
        index = torch.where(near, nearest, torch.arange(positions.shape[1])[None, :, None])
        return lambda i, x: index

    @property
    def min_points(self):
        return self.k


class ZeroConv(nn.Module):
    """Whatever is around a point, of any number of channels."""

    def __init__(self, in_channels, out_channels, spec=LayerSpec()):
        super().__init__()
        self.width = out_channels

    def forward(self, x, index, mask=None):
        return x.new_zeros(*x.shape[:2], self.width)


class OwnNet(DeepGCN):
    """A network whose connection and graph no description could hold."""

    def __init__(self, **settings):
        super().__init__(**{**settings, "connection": Halved(), "graph": RandomGraph})


@pytest.fixture
def mine(monkeypatch):
    """A module of the user's, with all of these."""
    module = ModuleType("mine_of_extending")
    for part in (MeanConv, OwnNet, RadiusGraph):
        own = type(part.__name__, (part,), {"__module__": module.__name__})
        setattr(module, part.__name__, own)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize(
    "own",
    [
        {"connection": Halved()},
        {"connection": Halved},
        {"connection": Growing()},
        {"conv": MeanConv},
        {"conv": FarMeanConv},
        {"graph": RandomGraph},
        {"graph": RadiusGraph},
        {"graph": partial(RadiusGraph, radius=0.1)},
        {"connection": partial(Growing), "conv": partial(MeanConv), "graph": partial(RadiusGraph, radius=0.1)},
    ],
    ids=[
        "residual connection",
        "class of a connection",
        "growing connection",
        "convolution",
        "convolution of positions",
        "graph",
        "graph with a setting",
        "partial of a graph",
        "partials of all three",
    ],
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
        inferred = model(points)
    # Gradients wanted, the ordinary pass is taken.
    assert torch.allclose(inferred, model(points), atol=1e-5)
    assert summarize(model).flops > 0
    widths = [8, 16, 24, 32] if isinstance(model.backbone.connection, Growing) else [8] * 4
    assert [layer.shape[-1] for layer in model.features(points)] == widths


def test_what_ones_own_connection_and_graph_compute():
    model = DeepGCN(**SMALL, connection=Halved(), graph=RandomGraph).eval()
    points = torch.rand(1, 30, 9)
    index = RandomGraph(k=4).neighbors(None, points, None)(0, points)
    x = model.backbone.head(points, index)
    for block, found in zip(model.backbone.blocks, model.features(points)[1:]):
        x = (x + block.conv(x, index)) / 2
        assert torch.allclose(found, x)


def test_the_setting_of_ones_own_graph_decides_its_neighbours():
    model = DeepGCN(**{**SMALL, "k": 20}, graph=partial(RadiusGraph, radius=0.3)).eval()
    points = torch.rand(1, 40, 9)
    positions = points[0, :, 6:]
    index = model.backbone.graph.neighbors(model.backbone.graphs, positions[None], None)(0, positions[None])[0]
    for i, found in enumerate(index):
        distance = (positions - positions[i]).norm(dim=-1)
        near = distance.argsort()[:20]
        assert set(found.tolist()) == set(near[distance[near] <= 0.3].tolist())
    assert any(len(found.unique()) < 20 for found in index)
    assert not torch.allclose(model(points), wider(model)(points))


GIVEN = {
    "padded with -1": (lambda index: index.where(index > 2, -1), "for layer 1: from -1 to 29"),
    "counted from 1": (lambda index: index + 1, "for layer 0: from 1 to 30; must be from 0 to 29"),
    "of the first block": (lambda index: index[:1], r"for layer 0: \(1, 30, 4\) of torch.int64; .*shape \(2, 30, k\)"),
    "of no points": (lambda index: index[..., :0], "0 neighbours of each point; must be from 1"),
    "as floats": (lambda index: index.float(), "of torch.float32; .* must be int64"),
}


@pytest.mark.parametrize("kind", GIVEN)
@pytest.mark.parametrize("conv", [convolution.EdgeConv, convolution.GIN])
def test_wrong_neighbors_of_ones_own_graph_are_refused(kind, conv):
    change, message = GIVEN[kind]

    class Wrong(RandomGraph):
        def neighbors(self, graphs, positions, mask):
            right = super().neighbors(graphs, positions, mask)
            return lambda i, x: change(right(i, x)) if i or "layer 1" not in message else right(i, x)

    model = DeepGCN(**SMALL, graph=Wrong, conv=conv).eval()
    with pytest.raises(ValueError, match=f"graph: neighbours that Wrong found .*{message}"):
        model(torch.rand(2, 30, 9))


class ReturnsNothing(nn.Module):
    """A convolution, norm or activation that was not finished."""

    def __init__(self, *_):
        super().__init__()

    def forward(self, x, *_):
        pass


class OneChannel(ReturnsNothing):
    def forward(self, x, *_):
        return x[..., :1]


class Integers(ReturnsNothing):
    def forward(self, x, *_):
        return x.long()


class Unconnected(Connection):
    def combine(self, x, h):
        pass


class Narrowing(Connection):
    def combine(self, x, h):
        return h[..., :3]


class NoGraph(RandomGraph):
    def neighbors(self, graphs, positions, mask):
        pass


class NoNeighbors(RandomGraph):
    def neighbors(self, graphs, positions, mask):
        return lambda i, x: None


def builds_nothing(*_):
    pass


LAYERS = ("conv", "norm", "act")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        *(({part: ReturnsNothing}, f"{part}: ReturnsNothing returned NoneType; must return a floating-point tensor (2, ")
          for part in LAYERS),
        *(({part: OneChannel}, f"{part}: OneChannel returned torch.float32 (2, ") for part in LAYERS),
        *(({part: Integers, "in_channels": 8, "positions": [0, 1, 2]}, f"{part}: Integers returned torch.int64 (2, ")
          for part in LAYERS),
        *(({part: builds_nothing}, f"{part}: builds_nothing returned NoneType; must return a layer") for part in LAYERS),
        ({"connection": Unconnected}, "connection: Unconnected returned NoneType; must return a floating-point tensor (2, 30, "),
        ({"connection": Narrowing, "conv": ZeroConv}, "connection: Narrowing returned torch.float32 (2, 30, 3); must return"),
        ({"graph": NoGraph}, "graph: NoGraph returned NoneType; must return a function"),
        ({"graph": NoNeighbors}, "graph: NoNeighbors returned NoneType for layer 0; must return neighbours"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
@pytest.mark.parametrize("connection", ["res", "res+", "rev"])
def test_a_part_of_ones_own_that_returns_something_else_is_named(own, message, connection):
    build = lambda: DeepGCN(**{**SMALL, "connection": connection, **own})
    with pytest.raises(PartError) as raised:
        (model := build())(torch.rand(2, 30, model.in_channels))
    assert str(raised.value).startswith(message)


def wider(model):
    """The network with the same weights, whose graph reaches everywhere."""
    other = DeepGCN(**{**SMALL, "k": 20}, graph=partial(RadiusGraph, radius=9.0)).eval()
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (partial(RadiusGraph, radius=-1.0), "radius=-1.0: must be above 0"),
        (partial(RadiusGraph, strict="no"), "graph.strict=no: must be true or false"),
        (partial(RadiusGraph, k=8), "graph: k is an argument of the network; set it there"),
        (partial(MeanConv), "give a subclass of Graph"),
        (RadiusGraph(), "give a subclass of Graph"),
    ],
)
def test_what_cannot_be_a_graph_is_refused(graph, message):
    with pytest.raises(ValueError, match=message):
        DeepGCN(**SMALL, graph=graph)


@pytest.mark.parametrize("connection", [MeanConv, partial(MeanConv), 5])
def test_what_cannot_be_a_connection_is_refused(connection):
    with pytest.raises(ValueError, match="connection"):
        DeepGCN(**SMALL, connection=connection)


def test_the_groups_of_a_network_are_those_of_a_class_of_a_connection():
    assert DeepGCN(**SMALL, connection=Reversible, groups=4).backbone.connection.groups == 4


OWN_GRAPH = "{_target_: mine_of_extending.RadiusGraph, _partial_: true, radius: 0.1}"


def composed_with_own_graph(folder, *overrides):
    """A composed config of a network whose graph is a file of the user's in the group ``graph``."""
    (folder / "graph").mkdir()
    (folder / "graph" / "radius.yaml").write_text(f"defaults: [dynamic]\nname: {OWN_GRAPH}\n")
    small = ["depth=4", "channels=8", "k=4", "model.fusion_channels=16", "model.head_channels=[8]"]
    return composed(f"hydra.searchpath=[file://{folder}]", "graph=radius", *small, *overrides)


@pytest.mark.usefixtures("mine")
def test_a_graph_of_ones_own_is_a_file_of_settings_and_is_saved_and_loaded(tmp_path):
    config = composed_with_own_graph(tmp_path, "graph.name.radius=0.3")
    check(config)
    model = instantiate(config.model).eval()
    assert (model.backbone.graph.radius, model.min_points) == (0.3, 4)
    saved_and_loaded(tmp_path / "a.ckpt", model, OmegaConf.to_container(config.model, resolve=True))


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("graph.name.radius=-1", "graph.name: radius=-1: must be above 0"),
        ("+graph.name.radios=1", "graph.name.radios: no such setting; did you mean graph.name.radius"),
        ("+graph.name.k=8", "graph.name: graph: k is an argument of the network"),
        ("graph.name._partial_=false", "graph.name=.*settings with a _target_ and _partial_: true"),
        ("graph.name._target_=mine_of_extending.RadioGraph", "did you mean RadiusGraph"),
    ],
)
def test_a_wrong_setting_of_ones_own_graph_is_named(override, message, tmp_path):
    with pytest.raises(UserError, match=message):
        check(composed_with_own_graph(tmp_path, override))


def test_a_convolution_of_ones_own_is_saved_and_loaded_where_it_is_trusted(tmp_path, mine):
    config = {"_target_": "deepgcn_seg.DeepGCN", **SMALL, "conv": {"_target_": "mine_of_extending.MeanConv"}}
    model = DeepGCN(**SMALL, conv=mine.MeanConv).eval()
    saved_and_loaded(tmp_path / "a.ckpt", model, config)


def test_a_network_with_a_connection_and_a_graph_of_ones_own_is_saved_and_loaded(tmp_path, mine):
    model = mine.OwnNet(**SMALL).eval()
    saved_and_loaded(tmp_path / "a.ckpt", model, {"_target_": "mine_of_extending.OwnNet", **SMALL})


@pytest.mark.usefixtures("mine")
def test_a_network_of_ones_own_is_a_setting_and_is_saved_and_loaded(tmp_path):
    small = ["depth=4", "channels=8", "k=4", "model.fusion_channels=16", "model.head_channels=[8]"]
    config = composed("model._target_=mine_of_extending.OwnNet", *small)
    check(config)
    model = instantiate(config.model).eval()
    assert isinstance(model.backbone.connection, Halved)
    saved_and_loaded(tmp_path / "a.ckpt", model, OmegaConf.to_container(config.model, resolve=True))


class Weighted(Connection, nn.Module):
    """x + w h, where w is trained."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def combine(self, x, h):
        return x + self.weight * h


@pytest.mark.parametrize("recompute", [False, True])
def test_a_connection_that_is_a_module_may_have_parameters(recompute):
    """docs/model.md says so."""
    model = DeepGCN(**{**SMALL, "connection": Weighted, "recompute": recompute})
    model(torch.rand(1, 40, 9)).sum().backward()
    assert len(list(model.parameters())) == len(list(DeepGCN(**SMALL).parameters())) + 1
    assert all(parameter.grad is not None for parameter in model.parameters())


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
        ({"connection": {"_target_": "mine.Halved"}}, "model_config.connection.*cannot hold a connection of your own"),
        ({"graph": RandomGraph}, "model_config.graph=.*must be one of dynamic, fixed"),
    ],
)
def test_what_a_description_cannot_hold_is_named(tmp_path, own, message):
    model = DeepGCN(**SMALL)
    with pytest.raises(UserError, match=message):
        save_checkpoint(
            tmp_path / "a.ckpt", model, describe_network({"_target_": "deepgcn_seg.DeepGCN", **SMALL, **own}), S3DIS
        )
    assert not list(tmp_path.iterdir())


class MeanConvOptions(Schema):
    """:class:`MeanConv`, which has no options."""

    name: Literal["mean"]


@pytest.fixture
def in_the_tables(monkeypatch):
    """An entry of each table, as if each was written in the table's file."""
    added = type("AddedConv", (MeanConv,), {"__module__": convolution.__name__})
    monkeypatch.setattr(convolution, added.__name__, added, raising=False)
    monkeypatch.setitem(convolution.CONVOLUTIONS, "mean", (added, MeanConvOptions))
    monkeypatch.setitem(CONNECTIONS, "halved", Halved)
    monkeypatch.setitem(GRAPHS, "random", RandomGraph)


@pytest.mark.usefixtures("in_the_tables")
@pytest.mark.parametrize(
    "overrides",
    [
        ["graph.name=random"],
        ["backbone.connection=halved"],
        ["conv._target_=deepgcn_seg.model.convolution.AddedConv"],
        ["graph.name=random", "backbone.connection=halved", "conv._target_=deepgcn_seg.model.convolution.AddedConv"],
    ],
    ids=["graph", "connection", "convolution", "all three"],
)
def test_an_entry_of_a_table_is_a_setting_and_is_saved_and_loaded(overrides, tmp_path):
    config = composed("depth=4", "channels=8", "k=4", "model.fusion_channels=16", "model.head_channels=[8]", *overrides)
    check(config)
    model = instantiate(config.model).eval()
    network = describe_network(OmegaConf.to_container(config.model, resolve=True))
    save_checkpoint(tmp_path / "a.ckpt", model, network, S3DIS)
    points = torch.rand(1, 40, 9)
    assert torch.equal(load_model(tmp_path / "a.ckpt")(points), model(points))


@pytest.mark.parametrize(("dynamic", "graph"), [(True, "dynamic"), (False, "fixed")])
def test_a_checkpoint_from_before_graphs_had_names_is_loaded(dynamic, graph, tmp_path):
    model, points = DeepGCN(**SMALL, graph=graph).eval(), torch.rand(1, 40, 9)
    save_checkpoint(tmp_path / "a.ckpt", model, {**SMALL, "graph": graph}, S3DIS)
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    del content["model_config"]["graph"]
    content["model_config"]["dynamic"] = dynamic
    torch.save(content, tmp_path / "a.ckpt")
    loaded = load_model(tmp_path / "a.ckpt")
    assert type(loaded.backbone.graph) is GRAPHS[graph]
    assert torch.equal(loaded(points), model(points))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("graph.name=random", "graph.name=random: must be one of dynamic, fixed, or settings with a _target_"),
        ("backbone.connection=halved", "model.connection=halved: must be one of plain, res, dense, res\\+, rev$"),
    ],
)
def test_what_is_in_no_table_is_refused(override, message):
    with pytest.raises(UserError, match=message):
        check(composed(override))


@pytest.mark.parametrize("pre_activated", [False, True], ids=["", "pre-activated"])
@pytest.mark.parametrize("nested", [False, True], ids=["", "nested"])
@pytest.mark.parametrize("keeps_layers", [False, True], ids=["last layer", "every layer"])
def test_every_kind_of_connection_of_ones_own(keeps_layers, nested, pre_activated, tmp_path, monkeypatch):
    own = type("Own", (Growing if nested else Halved,), {"keeps_layers": keeps_layers, "pre_activated": pre_activated})
    if nested:
        own.nested, own.combine = True, lambda self, x, h: torch.cat([x, h], -1)
    model = DeepGCN(**SMALL, connection=own(), block_dropout=0.2)
    points = torch.rand(2, 600, 9)
    model(points).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())

    model.eval()
    layers = model.features(points)
    widths = [8, 16, 24, 32] if nested else [8] * 4
    assert [layer.shape[-1] for layer in layers] == (widths if keeps_layers else widths[-1:])
    expected = as_in_the_paper(model, torch.cat(layers, -1))
    assert torch.allclose(model(points), expected, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(model(points), expected, atol=1e-5)

    monkeypatch.setitem(CONNECTIONS, "own", own)
    config = {"_target_": "deepgcn_seg.DeepGCN", **SMALL, "connection": "own", "block_dropout": 0.2}
    save_checkpoint(tmp_path / "a.ckpt", model, describe_network(config), S3DIS)
    assert torch.equal(load_model(tmp_path / "a.ckpt")(points), model(points))


def as_in_the_paper(model, features):
    """The logits of all layers' features side by side: fusion block and prediction head, product by product."""
    layer, first = model.fusion.layer, model.head.first
    fused = layer.finish(layer.linear(features)).amax(1, keepdim=True).expand(-1, features.shape[1], -1)
    return model.head.classify(first.finish(first.linear(torch.cat([fused, features], -1))), None)


def test_a_connection_may_run_its_blocks_in_a_way_of_its_own():
    class Twice(Halved):
        """Each block is run twice, with the same neighbours; the fusion block sees what came of it in the end."""

        keeps_layers = False

        def run(self, blocks, x, around, channels, dropout=0.0):
            for i, block in enumerate(blocks):
                neighborhood = around(i, x)
                x = block(block(x, neighborhood), neighborhood)
            yield x

    model, points = DeepGCN(**SMALL, connection=Twice()).eval(), torch.rand(1, 40, 9)
    backbone = model.backbone
    x = backbone.head(points, backbone.graphs[0](points[..., 6:]))
    for graph, block in zip(backbone.graphs[1:], backbone.blocks):
        index = graph(x)
        for _ in range(2):
            x = (x + block.conv(x, index)) / 2
    assert torch.allclose(*model.features(points), x, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(model(points), as_in_the_paper(model, x), atol=1e-5)


def test_help_shows_the_settings():
    import inspect

    own = inspect.signature(DeepGCN).parameters
    for build, depth in ((DeepGCN.resgcn, 28), (DeepGCN.revgcn, 112), (DeepGCN.plaingcn, 28)):
        shown = inspect.signature(build).parameters
        assert shown.keys() == own.keys() - {"connection"}
        assert shown["depth"].default == depth and shown["channels"].default == own["channels"].default
    assert inspect.signature(DeepGCN.plaingcn).parameters["dilation"].default == "none"
