"""Every configuration composes and builds; impossible ones are one clear line."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf

from deepgcn_seg import DeepGCN, train
from deepgcn_seg.commands.command_line import help
from deepgcn_seg.commands.command_line.checks import check, require_read
from deepgcn_seg.commands.command_line.command_settings import COMMANDS
from deepgcn_seg.commands.command_line.main import hydra_arguments
from deepgcn_seg.data.augmentation import Jitter, Mirror
from deepgcn_seg.data.blocks import BlockGrid
from deepgcn_seg.errors import UserError
from deepgcn_seg.evaluation import Protocol
from deepgcn_seg.model import DynamicGraph, FixedGraph
from deepgcn_seg.model.connection import BACKBONES, Plain
from deepgcn_seg.settings import SettingError, Validated
from deepgcn_seg.training.schedules import HalveByEpochs

CONF = Path(__file__).parent.parent / "conf"


def composed(*overrides, name="train"):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, list(overrides))


def choices(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("command", sorted(path.stem for path in CONF.glob("*.yaml")))
@pytest.mark.parametrize("mode", ["run", "sweep"])
def test_commands_that_a_shell_loop_starts_at_once_have_directories_of_their_own(mode, command):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        configs = [compose(command, return_hydra_config=True) for _ in range(3)]
    assert len({config.hydra[mode].dir for config in configs}) == 3


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_jobs_of_a_sweep_have_directories_of_their_own_whatever_else_is_swept_over(experiment):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"experiment={experiment}"], return_hydra_config=True)
    assert "${hydra.job.num}" in OmegaConf.to_container(config.hydra)["sweep"]["subdir"]


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
    # What the data decide is known once they are open.
    overrides += ["data.features=[block,room]", "model.positions=[0,1,2]"] if override == "data=folder" else []
    config = composed(*overrides, "channels=8")
    check(config)
    assert isinstance(instantiate(config.model), DeepGCN)
    assert instantiate(config.protocol).points == config.points
    instantiate(config.recipe.schedule)
    instantiate(config.recipe.norm_momentum)
    instantiate(config.recipe.optimizer)
    instantiate(config.data.grid)


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_the_settings_of_every_command_pass(name):
    assert name in COMMANDS
    check(composed(name=name), name)


@pytest.mark.parametrize("override", [f"protocol={choice}" for choice in choices("protocol")] + ["data=synthetic"])
def test_the_settings_of_an_evaluation_pass(override):
    check(composed(override, name="evaluate"), "evaluate")


def own_values(part, prefix=""):
    """Dotted keys of the values that a composed config has of its own: no references and no targets."""
    pairs = part.items() if isinstance(part, dict) else enumerate(part)
    for key, value in pairs:
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            yield from own_values(value, f"{prefix}{key}.")
        elif not str(key).startswith("_") and "${" not in str(value):
            yield f"{prefix}{key}"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_setting_has_a_comment_for_help(name):
    swapped = [f"{group}={choice}" for group in help.groups_of(CONF, name) for choice in choices(group)]
    known = help.settings(CONF, name)
    for override in ["hydra.job.name=x", *swapped]:
        values = own_values(OmegaConf.to_container(composed(override, name=name)))
        assert [key for key in values if not known[key] and not known.get(key.rpartition(".")[0])] == [], override


def require_composed_read(*overrides, name="train", folder=CONF):
    """Compose a command's settings, and require as the command does that something reads each of them."""
    with initialize_config_dir(str(folder), version_base="1.3"):
        config = compose(name, list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    try:
        own = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
        require_read(own, name if name in COMMANDS else "train", help.settings(CONF, "train"))
    finally:
        HydraConfig.instance().cfg = None


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_reads_every_setting_of_its_files(name):
    for group in help.groups_of(CONF, name):
        for choice in choices(group):
            require_composed_read(f"{group}={choice}", name=name)
    require_composed_read(name=name)


def file_of(folder, group, text, name="mine"):
    (folder / group).mkdir(exist_ok=True, parents=True)
    (folder / group / f"{name}.yaml").write_text(text)


GLOBAL = "# @package _global_\n"


@pytest.mark.parametrize(
    ("group", "text", "message"),
    [
        ("experiment", f"{GLOBAL}epoch: 1\ndepth: 3\n", "epoch: nothing reads this setting; did you mean epochs?"),
        ("experiment", f"{GLOBAL}recipe: {{emma: null}}", "recipe.emma: nothing reads this setting; did you mean recipe.ema?"),
        ("experiment", f"{GLOBAL}data: {{folds: 3}}", "data.folds: nothing reads this setting; did you mean data.fold?"),
        ("experiment", f"{GLOBAL}recipe: {{shedule: {{_target_: a.B}}}}", "recipe.shedule: nothing reads this setting; did you mean recipe.schedule"),
        ("experiment", f"{GLOBAL}mine: {{width: 3, height: 4}}\nk: ${{mine.height}}\n", "mine.width: nothing reads this setting"),
        ("experiment", f"{GLOBAL}data: {{colour: 1}}", "data.colour: nothing reads this setting"),
        ("experiment", "epochs: 1\n", 'experiment.epochs: nothing reads this setting; a file of experiment that sets epochs begins with the line "# @package _global_"'),
        ("recipe", f"{GLOBAL}defaults: [paper]\nrecipe: {{class_weight: sqrt}}", "recipe.class_weight: nothing reads this setting; did you mean recipe.class_weights?"),
        ("recipe", "epochs: 1\n", 'recipe.epochs: nothing reads this setting; a file of recipe that sets epochs begins'),
        ("data", "defaults: [synthetic]\nfeature: [block]", "data.feature: nothing reads this setting; did you mean data.features?"),
        ("graph", "defaults: [dynamic]\nepsilom: 0.1", "graph.epsilom: nothing reads this setting; did you mean graph.epsilon?"),
    ],
)  # fmt: skip
def test_a_setting_of_a_users_own_file_that_nothing_reads_is_named(group, text, message, tmp_path):
    file_of(tmp_path, group, text)
    with pytest.raises(UserError) as raised:
        require_composed_read(f"hydra.searchpath=[file://{tmp_path}]", f"{group}=mine")
    assert str(raised.value).startswith(message)


def test_a_setting_of_a_users_own_primary_file_that_nothing_reads_is_named(tmp_path):
    (tmp_path / "own.yaml").write_text("defaults: [train, _self_]\nacumulate: 4\n")
    given = [f"hydra.searchpath=[file://{CONF}]"]
    with pytest.raises(UserError, match="^acumulate: nothing reads this setting; did you mean accumulate"):
        require_composed_read(*given, name="own", folder=tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "width: 4\nk: ${width}",
        "mine: {width: 4}\nk: ${mine.width}",
        "recipe: {rate: 0.1, optimizer: {lr: '${..rate}'}}",
        "sizes: [1, 2]\nk: '${sizes[0]}'",
        "mine: {a: 1}\nrecipe: {optimizer: '${mine}'}",
        "tag: x\nhydra: {run: {dir: 'out/${tag}'}}",
        "recipe: {loss: {focal: 1}}",
        "recipe: {optimizer: {eps: 0.1}}",
        "defaults: [{/tracking@tracking: mine}]",
        "defaults: [{/data/rooms@data.rooms: mine}]",
    ],
)
def test_settings_of_a_users_own_are_read_by_others_and_own_groups_hold_anything(text, tmp_path):
    file_of(tmp_path, "experiment", f"{GLOBAL}{text}\n")
    for group in ("tracking", "data/rooms"):
        file_of(tmp_path, group, "anything: {there: 1}\n")
    require_composed_read(f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine")


@pytest.mark.parametrize(("typed", "refused"), [([], False), (["+epoch=2"], True)])
def test_a_resumed_run_keeps_what_it_was_stored_with(typed, refused, tmp_path):
    stored = OmegaConf.to_container(composed("+tag=x"))
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(stored)))
    given = [f"hydra.searchpath=[file://{CONF}]", "resume=x", *typed]
    if refused:
        with pytest.raises(UserError, match="^epoch: nothing reads"):
            require_composed_read(*given, name="config", folder=tmp_path)
    else:
        require_composed_read(*given, name="config", folder=tmp_path)


def test_hidden_files_of_macos_are_no_settings(tmp_path):
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    for path in (conf / "._train.yaml", conf / "recipe" / "._paper.yaml", conf / "data" / "grid" / "._blocks.yaml"):
        path.write_bytes(b"\x00\x05\x16\x07\xff")
    assert help.settings(conf, "train", {}) == help.settings(CONF, "train", {})
    assert help.choices_of(conf, "recipe") == help.choices_of(CONF, "recipe")
    with pytest.raises(UserError, match=r"^recipe=papr: must be one of modern, ") as raised:
        train("recipe=papr", config_dir=conf)
    assert "._" not in str(raised.value)


def test_help_shows_values_as_they_are_set():
    lines = help.page(CONF, "train", ["recipe=modern_turns", "depth=7"]).splitlines()
    shown = {line.split("#")[0].strip(): line.split("#")[1].strip() for line in lines if "  # " in line}
    assert shown["depth: 7"] == "layers, the head included"
    assert shown["lr: 0.008"] == "learning rate at the start"
    assert shown["step: 90"] == "degrees; 0 for any angle"


def test_channels_may_be_left_to_the_data():
    check(composed("data=folder", "data.root=x"))


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
    assert {name: composed("backbone=plaingcn").graph[name] for name in Plain.official} == Plain.official
    asked = composed("backbone=plaingcn", "graph.dilation=linear", "graph.stochastic=true")
    assert instantiate(asked.model).backbone.graphs[-1].dilation == 27


def test_every_backbone_is_called_as_its_connection_says():
    named = {name: composed(f"backbone={name}").backbone.connection for name in choices("backbone")}
    assert named == {name: kind.name for name, kind in BACKBONES.items()}


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
    assert (backbone.connection.name, backbone.channels, type(backbone.graph)) == ("dense", 12, FixedGraph)
    assert [(g.k, g.dilation, g.epsilon) for g in backbone.graphs] == [(7, d, 0.5) for d in (1, 2, 1, 2, 1)]
    assert type(backbone.head).__name__ == "MRConv"


WRONG = [
    ("depth=0", "must be an integer from 1 to 10000"),
    ("depth=1000000000", "must be an integer from 1 to 10000"),
    ("depth=2.5", "must be an integer"),
    ("k=true", "must be an integer"),
    ("channels=x", "must be an integer"),
    ("seed=abc", "must be an integer from 0 to 4294967295"),
    ("seed=-1", "must be an integer from 0"),
    (f"seed={2**70}", "must be an integer from 0"),
    ("max_steps=0", "must be null or an integer of at least 1"),
    ("workers=-1", "must be an integer from 0"),
    ("devices=100000", "must be an integer from 1 to 64"),
    ("device=gpu", ""),
    *((f"device={other}", "must be auto, cpu, cuda or cuda:1") for other in ("mps", "xpu", "hpu", "meta")),
    ("device=[cpu]", "must be text"),
    ("sync_norms=5", "must be true or false"),
    ("precision=fp8", "must be one of fp32, bf16"),
    ("select=best", "must be one of validation, test, last"),
    ("graph.epsilon=2", "must be a number of at least 0 and at most 1"),
    ("graph.dilation=lin", "must be linear, none, an integer"),
    ("graph.dilation=[1,0]", "must be linear, none, an integer"),
    ("graph.period=0", "must be null or an integer"),
    ("graph.loop=maybe", "must be true or false"),
    ("model.epsilon=-1", "must be a number of at least 0"),
    ("model.act=swish", "must be one of relu"),
    ("model.norm_eps=0", "must be a number above 0"),
    ("model.dropout=1", "must be a number of at least 0 and below 1"),
    ("model.groups=0", "must be an integer"),
    ("model.fusion_channels=-1", "must be an integer"),
    ("model.head_channels=[0]", "0 must be an integer from 1"),
    ("model.head_channels=[200000]", "200000 must be an integer"),
    ("model.head_channels=5", "must be a list"),
    ("model.positions=[9]", "9 must be an integer from 0 to 8"),
    ("data.root=null", "is not set: must be the folder of the prepared rooms"),
    ("data.root=2024", "two pairs of quotes"),
    ("data.validation=1", "must be a number of at least 0 and below 1"),
    ("data.features=[block,smell]", "smell must be one of block, color, room, height"),
    ("data.features=[block,block]", "must name each feature once"),
    ("data.features=[height]", "which is not among height"),
    ("model.in_channels=100", "data.features sets it, here to 9"),
    ("data.fold=true", "must be null or the name or number of an area"),
    ("data.fold=7", "must be one of 1..6"),
    ("data.grid.stride=0", "must be a number above 0"),
    ("data.grid.stride=1e-9", "must be at least side / 20"),
    ("data.grid.side=.nan", "must be a number above 0"),
    ("data.grid.min_points=-1", "must be an integer of at least 0"),
    ("data.grid=null", "is not set"),
    ("data.store.density=.inf", "must be a number above 0"),
    ("data.store.rooms_per_area=0", "must be an integer"),
    ("protocol.stride=2", "must be at most side=1.0"),
    ("protocol.stride=.nan", "must be a number above 0"),
    ("protocol.votes=0", "must be an integer"),
    ("protocol.seed=-1", "must be an integer"),
    ("protocol.turn=7", "must be true or false"),
    ("recipe.label_smoothing=3", "must be a number of at least 0 and below 1"),
    ("recipe.label_smoothing=1", "must be a number of at least 0 and below 1"),
    ("recipe.ema=1.5", "must be null or a number"),
    ("recipe.optimizer.lr=0", "must be a number above 0"),
    ("recipe.optimizer.lr=.inf", "must be a number above 0"),
    ("recipe.schedule.samples=0", "must be an integer of at least 1"),
    ("recipe.schedule.floor=2", "must be a number of at least 0 and at most 1"),
    ("recipe.norm_momentum.start=0", "must be a number above 0"),
    ("recipe.norm_momentum=5", "must be null or settings with a _target_"),
    ("recipe.schedule=null", "is not set: must be settings with a _target_"),
    ("recipe.augmentation=[1]", "1 must be settings with a _target_"),
    (f"graph.epsilon={10**400}", "must be a number of at least 0 and at most 1"),
    (f"recipe.class_weights=[{10**400}]", "must be"),
]


@pytest.mark.parametrize(("override", "message"), WRONG)
def test_a_wrong_setting_is_one_line_that_begins_with_its_key(override, message):
    with pytest.raises(UserError) as raised:
        check(composed(override))
    key, value = override.split("=")
    assert str(raised.value).startswith((f"{key}=", f"{key} is not set"))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["k=5000"], "k=5000: must be at most points=4096"),
        (["k=200"], "dilation up to 27"),
        (["model.k=5000"], "model.k=5000: follows k; set k instead"),
        (["data=s3dis"], "data.root is not set"),
        (["batch_size=15", "accumulate=2"], "batch_size=15: must be a multiple of 2"),
        (["points=131072", "batch_size=65536"], "batch_size=65536: with points=131072"),
        (["recipe=modern", "recipe.schedule.warmup=2"], "recipe.schedule.warmup=2: must be"),
        (["recipe=modern_turns", "recipe.augmentation.0.step=-90"], "recipe.augmentation.0.step=-90: must be"),
        (["recipe=modern_turns", "recipe.augmentation.0.step=270"], "recipe.augmentation.0.step=270: must be"),
        (["recipe=modern", "recipe.augmentation.0.low=2"], "recipe.augmentation.0.low=2: must be at most high=1.05"),
        (["+recipe.optimizer.betas=[2,1]"], "recipe.optimizer: Invalid beta"),
        (["+recipe.optimizer.betas=[0.9]"], "recipe.optimizer: "),
        (["+recipe.optimizer.speed=1"], "recipe.optimizer.speed: no such setting; known are lr, betas"),
        (["recipe.optimizer={_target_:torch.optim.LBFGS,_partial_:true,lr:1}"], "needs several passes (a closure)"),
        (["+model.dropuot=1"], "model.dropuot: no such setting; did you mean model.dropout?"),
        (["+model.checkpoint=true"], "model.checkpoint: no such setting; it is now model.recompute"),
        (["backbone=revgcn", "model.groups=7"], "groups=7 must divide the channels of rev, 64"),
        (["conv=gen", "conv.aggregation=most"], "aggregation"),
        (["conv=gatv2", "conv.operator.heads=0"], "heads=0"),
        (["protocol.variant=port"], "protocol.variant=port: the network is trained with paper"),
        (["recipe=port", "protocol.variant=paper"], "protocol.variant=paper: the network is trained with port"),
        (["protocol.features=[color,block,room]"], "protocol.features=[color,block,room]: the network is trained with"),
        (["protocol.features=[block]"], "protocol.features=[block]: the network is trained with [block,color,room]"),
        (["protocol.side=3"], "protocol.side=3: the network is trained with 1.0"),
        (["protocol.points=1"], "protocol.points=1: the network's k x dilation needs blocks of 432 points"),
        (["protocol.points=431"], "protocol.points=431: the network's"),
        (["protocol.points=1000000"], "protocol.points=1000000: must be at most 131072"),
        (["protocol.batch_size=4097"], "protocol.batch_size=4097: with points=4096, a batch of more than"),
        (["model._target_=deepgcn_seg.model.DeepGCN", "model.dropout=2"], "model.dropout=2: must be"),
    ],
)
def test_settings_that_do_not_fit_each_other(overrides, message):
    with pytest.raises(UserError) as raised:
        check(composed(*overrides))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.depth=3", "depth"),
        ("model.channels=8", "channels"),
        ("model.k=8", "k"),
        ("model.loop=false", "graph.loop"),
        ("model.dilation_period=3", "graph.period"),
        ("model.connection=dense", "backbone.connection"),
    ],
)
def test_an_argument_that_follows_another_setting_names_that_one(override, key):
    with pytest.raises(UserError, match=rf"^{override.split('=')[0]}=.*: follows {key}; set {key} instead"):
        check(composed(override))


@pytest.mark.parametrize(("dynamic", "graph"), [("true", DynamicGraph), ("false", FixedGraph)])
def test_a_command_line_from_before_graphs_had_names(dynamic, graph):
    config = composed(*hydra_arguments([f"graph.dynamic={dynamic}", "depth=2"], CONF))
    check(config)
    assert type(instantiate(config.model).backbone.graph) is graph


@pytest.mark.parametrize("points", [432, 8192])
def test_a_protocol_may_draw_other_points_than_the_training(points):
    check(composed(f"protocol.points={points}"))


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("evaluate", "protocol.stride=0"),
        ("evaluate", "protocol.votes=0"),
        ("evaluate", "batch_size=x"),
        ("evaluate", "data.root=7"),
        ("evaluate", "points=1000000"),
        ("evaluate", "batch_size=1000000"),
        ("evaluate", "data.fold=true"),
        *[(name, "checkpoint=5") for name in ("evaluate", "predict", "convert", "export")],
        *[(name, "checkpoint=[a]") for name in ("convert", "export")],
        *[(name, "checkpoint=[]") for name in ("evaluate", "predict")],
        *[(name, f"trusted={value}") for name in ("evaluate", "predict") for value in ("5", "[1]", "[[a]]", "[a b]")],
        ("predict", "input=[a]"),
        ("convert", "connection=foo"),
        ("convert", "act=gelu"),
        ("benchmark", "axes.points=5"),
        ("benchmark", "axes.k=[0]"),
        ("predict", "stride=.nan"),
        ("predict", "votes=0"),
        ("predict", "scale=0"),
        ("predict", "scale=.inf"),
        ("predict", "tile=-1"),
        ("predict", "up=w"),
        ("predict", "batch_size=0"),
        ("predict", "columns=xyz"),
        ("predict", "colors=red"),
        ("predict", "view=5"),
        ("prepare", "workers=0"),
        ("prepare", "check=maybe"),
        ("convert", "k=0"),
        ("report", "runs=7"),
        ("benchmark", "repeats=0"),
        ("benchmark", "batch_sizes=[0]"),
        ("benchmark", "sizes=[[1,2]]"),
        ("benchmark", "data.grid.stride=0"),
    ],
)
def test_wrong_settings_of_other_commands(name, override):
    with pytest.raises(UserError) as raised:
        check(composed(override, name=name), name)
    assert str(raised.value).startswith(f"{override.split('=')[0]}=")


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("predict", "view=v.pdf", "must be null or a file whose name ends in .html"),
        ("predict", "view=v", "ends in .html"),
        ("predict", "picture=v.jpg", "must be null or a file whose name ends in .png"),
        ("convert", "output=o.pdf", "must be a file whose name ends in .ckpt or .pt or .pth"),
        ("prepare", "export=blocks.h5", "must be null or a folder"),
        ("report", "output=report.html", "must be null or a folder"),
    ],
)
def test_an_ending_that_is_not_that_of_what_is_written_is_an_error(name, override, message):
    with pytest.raises(UserError) as raised:
        check(composed(override, name=name), name)
    assert str(raised.value).startswith(f"{override}: ") and message in str(raised.value)


def test_endings_of_what_is_written(tmp_path):
    (tmp_path / "a.html").mkdir()
    check(composed("view=a/V.HTML", "picture=b.png", name="predict"), "predict")
    check(composed(f"output={tmp_path}/a.html", name="report"), "report")
    check(composed("export=blocks.v2", name="prepare"), "prepare")


@pytest.mark.parametrize("name", ["there", "there/further", "there/further/still"])
def test_a_file_is_no_folder_to_write_into(tmp_path, name):
    (tmp_path / "there").write_text("mine")
    with pytest.raises(UserError, match="output=.*must be null or a folder that can be written"):
        check(composed(f"output={tmp_path}/{name}", name="report"), "report")
    check(composed(f"output={tmp_path}/new/further", name="report"), "report")


@pytest.mark.parametrize("override", ["trusted=null", "checkpoint=null"])
def test_a_setting_that_must_be_there_is_not_null(override):
    with pytest.raises(UserError, match=f"{override.split('=')[0]} is not set: must be"):
        check(composed(override, name="predict"), "predict")


@pytest.mark.parametrize("trusted", ["mine", "[mine,other.part]"])
def test_one_trusted_module_needs_no_brackets(trusted):
    check(composed(f"trusted={trusted}", name="evaluate"), "evaluate")


def test_the_values_of_a_users_own_parts_are_free():
    own = ["recipe.optimizer._target_=test_config.Mine", "recipe.optimizer.lr=-3", "++recipe.optimizer.mood=good"]
    check(composed(*own, "data.store._target_=test_config.Mine", "data.store.density=no"))


class Mine:
    """An optimiser or a source of a user's own."""

    def __init__(self, *_, **__):
        pass


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BlockGrid(side=0), "side=0: must be a number above 0"),
        (lambda: BlockGrid(stride=float("nan")), "stride=nan: must be"),
        (lambda: Protocol("room"), "name=room: must be one of blocks, recut, rooms"),
        (lambda: Protocol(side=0.5), "stride=1.0: must be at most side=0.5"),
        (lambda: Protocol(variant="z"), "variant=z: must be one of paper, port"),
        (lambda: Protocol(features=()), "features="),
        (lambda: Mirror(chance=2), "chance=2: must be"),
        (lambda: Jitter(sigma=-1), "sigma=-1: must be"),
        (lambda: HalveByEpochs(0), "epochs=0: must be"),
    ],
)
def test_constructors_name_what_is_wrong(build, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build()


def test_a_block_that_reaches_beyond_its_stride_may_leave_gaps_in_training_alone():
    assert BlockGrid(1.0, 2.0).stride == 2
    assert Protocol("recut", side=0.5).grid() == BlockGrid(0.5, 0.5)
    assert Protocol("blocks", side=2.0, min_points=7).grid() == BlockGrid(2.0, 1.0, 7)
    assert Protocol("rooms", min_points=7).grid() == BlockGrid(1.0, 1.0, 1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"^data\.root=\$\{oc\.env:DATA_OF_TEST\}/s3dis: Environment variable 'DATA_OF_TEST' not found$"),
        (
            "/x/${oc.env:HOME}",
            r"^data\.root=/x/\$\{oc\.env:HOME\}/s3dis: the name of this folder must not have \$\{ in it",
        ),
        ("/x", None),
    ],
)
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_variable_that_a_run_s_data_are_named_by_is_told_if_it_is_not_set(value, message, command, monkeypatch):
    """As of a run that is resumed in another shell, whose stored settings have the variable."""
    if value is not None:
        monkeypatch.setenv("DATA_OF_TEST", value)
    config = composed("data=s3dis", "data.root='${oc.env:DATA_OF_TEST}/s3dis'", name=command)
    if message is None:
        check(config, command)
        assert config.data.store.root == "/x/s3dis"
    else:
        with pytest.raises(UserError, match=message):
            check(config, command)


def validated_kinds(kind=Validated) -> Iterator[type]:
    for derived in kind.__subclasses__():
        if derived.__module__.startswith("deepgcn_seg."):
            yield derived
        yield from validated_kinds(derived)


def test_every_validated_class_refuses_values_of_another_type():
    """Also one with a ``__post_init__`` of its own, which must call the validation."""
    kinds = set(validated_kinds())
    assert {"BlockGrid", "HalveByEpochs", "LayerSpec", "Protocol", "Scale", "Voting"} <= {k.__name__ for k in kinds}
    for kind in kinds:
        with pytest.raises(SettingError, match="must be"):
            kind(**{field.name: object() for field in fields(kind)})
