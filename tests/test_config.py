"""Every configuration composes and builds; impossible ones are one clear line."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from deepgcn_seg import DeepGCN
from deepgcn_seg.config import check
from deepgcn_seg.errors import UserError

CONF = Path(__file__).parent.parent / "conf"


def composed(*overrides, name="train"):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides))


def choices(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(
    "override",
    [
        f"{group}={choice}"
        for group in ("backbone", "conv", "graph", "recipe", "protocol", "experiment", "data")
        for choice in choices(group)
        if choice != "checkpoint"
    ],
)
def test_every_choice_composes_and_builds(override):
    overrides = [override] + (["data.root=x"] if override.startswith("data=") else [])
    config = composed(*overrides, "channels=8")
    check(config)
    assert isinstance(instantiate(config.model), DeepGCN)
    assert instantiate(config.protocol).points == config.points
    instantiate(config.recipe.schedule)
    instantiate(config.recipe.norm_momentum)
    instantiate(config.recipe.optimizer)
    instantiate(config.data.grid)


@pytest.mark.parametrize("name", ["benchmark", "convert", "evaluate", "prepare", "report"])
def test_other_commands_compose(name):
    composed(name=name)


def test_defaults_are_the_papers_resgcn_28():
    config = composed()
    model = instantiate(config.model)
    assert sum(p.numel() for p in model.parameters()) == 3_644_301
    graphs = model.backbone.graphs
    assert [g.dilation for g in graphs] == [1, *range(1, 28)]
    assert all(g.stochastic and g.epsilon == 0.2 and g.k == 16 for g in graphs)
    assert (config.points, config.batch_size, config.data.fold) == (4096, 16, 5)
    assert model.backbone.positions == [6, 7, 8]
    assert model.backbone.head.layer.order == "norm-act"
    assert model.backbone.head.layer.norm.eps == 1e-3


def test_port_is_the_pytorch_variant():
    config = composed("recipe=port")
    model = instantiate(config.model)
    assert model.backbone.positions == [0, 1, 2]
    assert model.backbone.head.layer.order == "act-norm"
    assert (config.data.variant, config.epochs) == ("port", 100)


def test_plain_has_no_dilation_unless_asked():
    assert instantiate(composed("backbone=plaingcn").model).backbone.graphs[-1].dilation == 1
    asked = composed("backbone=plaingcn", "graph.dilation=linear", "graph.stochastic=true")
    assert instantiate(asked.model).backbone.graphs[-1].dilation == 27


def test_settings_reach_the_model():
    config = composed(
        "backbone=densegcn",
        "depth=5",
        "channels=12",
        "k=7",
        "conv=mr",
        "graph=fixed",
        "graph.dilation=[1,2]",
        "graph.epsilon=0.5",
    )
    model = instantiate(config.model)
    backbone = model.backbone
    assert (backbone.connection, backbone.channels, backbone.dynamic) == ("dense", 12, False)
    assert [(g.k, g.dilation, g.epsilon) for g in backbone.graphs] == [(7, d, 0.5) for d in (1, 2, 1, 2, 1)]
    assert type(backbone.head).__name__ == "MRConv"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["depth=0"], "depth=0: must be an integer of at least 1"),
        (["k=5000"], "k=5000: must be at most points=4096"),
        (["k=200"], "dilation up to 27"),
        (["data.fold=7"], "data.fold=7: must be one of 1..6"),
        (["data=s3dis"], "data.root is not set"),
        (["graph.dilation=lin"], "graph.dilation=lin"),
        (["graph.epsilon=2"], "graph.epsilon=2"),
        (["model.act=swish"], "model.act=swish: must be one of relu"),
        (["precision=fp8"], "precision=fp8: must be one of fp32, bf16"),
        (["max_steps=0"], "max_steps=0"),
        (["data.validation=1.5"], "data.validation=1.5"),
        (["device=gpu"], "device=gpu"),
    ],
)
def test_impossible_settings(overrides, message):
    with pytest.raises(UserError) as raised:
        check(composed(*overrides))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
