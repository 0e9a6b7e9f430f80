"""Operators, norms and activations from elsewhere on the command lines."""

import pytest
from test_commands import TINY, data_root, run  # noqa: F401
from test_config import composed

from deepgcn_seg.commands.command_line.checks import check
from deepgcn_seg.errors import UserError

PYG = "conv.operator._target_=torch_geometric.nn."
GROUPS = "model.norm={_target_:torch.nn.GroupNorm,_partial_:true,num_groups:4}"
SILU = "model.act={_target_:torch.nn.SiLU,_partial_:true}"


@pytest.mark.parametrize(
    "settings",
    [
        [],
        [f"{PYG}PointNetConv", "conv.networks={local_nn:[in+3,32,out]}"],
        [f"{PYG}PPFConv", "conv.networks={local_nn:[in+4,out]}", "model.positions=[0,1,2]"],
        [f"{PYG}GINConv", "conv.networks={nn:[in,2*in,out]}", "+conv.operator.train_eps=true", "backbone=densegcn"],
        [f"{PYG}NNConv", "conv.networks={nn:[3,16,in*out]}", "conv.edge_positions=true", "backbone=revgcn"],
        [GROUPS, SILU, "conv=edge"],
        [GROUPS, SILU, "conv=sage", "backbone=resgcnplus", "channels=12"],
    ],
    ids=str,
)
def test_settings_that_fit_pass(settings):
    check(composed("conv=pyg", "depth=3", "channels=8", *settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([f"{PYG}GINConv", "conv.networks={nn:[12,out]}"], "conv: GINConv in a layer from 9 to 8 channels: .*mat1"),
        ([f"{PYG}GINConv", "conv.networks={nn:[in,32]}"], r"for 4 points it returns \(4, 32\), not \(4, 8\)"),
        ([f"{PYG}GINConv"], r"conv: .*: needs nn; if .* network, give its widths: conv\.networks=\{nn:\[in,out\]\}"),
        (
            [f"{PYG}GINConv", "conv.networks={nm:[in,out]}"],
            r"conv\.networks\.nm: GINConv has no such argument; did you mean nn",
        ),
        (
            [f"{PYG}NNConv", "conv.networks={nn:[3,in*out]}"],
            r"conv: .*edge_attr too; conv\.edge_positions=true gives it",
        ),
        ([f"{PYG}SAGEConv", "+conv.operator.in_channels=2"], r"^conv\.operator\.in_channels=2: each layer sets it"),
        ([f"{PYG}SAGEConv", "conv.edge_positions=no"], "^conv.edge_positions=no: must be true or false"),
        (
            [f"{PYG}GINConv", "conv.networks={nn:[in,out]}", "+conv.operator.train_eps=no"],
            r"^conv\.operator\.train_eps=no",
        ),
        (
            [f"{PYG}SageConv"],
            r"^conv\.operator\._target_=torch_geometric\.nn\.SageConv: there is no such .* mean SAGEConv",
        ),
        (["conv._target_=nowhere.Conv"], r"^conv\._target_=nowhere\.Conv: there is no such class or function"),
        (
            ["model.norm={_target_:torch.nn.GroupNrm,_partial_:true}"],
            r"^model\.norm\._target_=torch\.nn\.GroupNrm: .*GroupNorm",
        ),
        (
            ["model.norm={_target_:torch.nn.GroupNorm,_partial_:true,groups:4}"],
            r"^model\.norm\.groups: no such .* model\.norm\.num_groups\?",
        ),
        (
            ["model.norm={_target_:torch.nn.GroupNorm,_partial_:true,num_groups:4,affine:no}"],
            r"^model\.norm\.affine=no: must be true",
        ),
        (
            ["model.act={_target_:torch.nn.ELU,_partial_:true,inplace:no}"],
            r"^model\.act\.inplace=no: must be true or false",
        ),
        (["conv.operator=5"], "^conv.operator=5: must be settings with a _target_"),
        (["conv=gen", "conv.mlp_layers=0"], r"^conv\.mlp_layers=0: must be an integer from 1"),
        (["conv=gen", "+conv.layers=2"], r"^conv\.layers: no such setting; did you mean conv\.mlp_layers\?"),
        ([f"{PYG}SAGEConv", "+conv.operator.agr=max"], "^conv: SAGEConv .*unexpected keyword argument 'agr'"),
        (
            [f"{PYG}SAGEConv", "conv.edge_positions=true"],
            "SAGEConv .*: takes no edge_attr, which conv.edge_positions=true",
        ),
        ([f"{PYG}EdgeConv", "conv.networks={nn:[2*input,out]}"], r"^conv\.networks\.nn=.*must be a list of at least"),
        (["model.positions=[0,1]"], r"model: positions=\[0, 1\]: the graph convolution reads three"),
        ([GROUPS, "channels=6"], r"model: num_channels \(6\) must be divisible by num_groups \(4\)"),
        (["model.norm={_target_:torch.nn.GroupNorm,num_groups:4}"], r"model\.norm=.* _target_ and _partial_: true"),
        (["model.act={_target_:torch.nn.Softmax,_partial_:true}"], "model: act: torch.nn.Softmax cannot stand here"),
        (
            ["model.act={_target_:torch.nn.ELU,_partial_:true,alfa:1}"],
            r"^model\.act\.alfa: no such setting; known are alpha, inplace",
        ),
        (["model.act=silu"], r"model\.act=silu: must be one of relu, .*, or settings with a _target_"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_one_line_before_any_work(settings, message):
    with pytest.raises(UserError, match=message) as raised:
        check(composed("conv=pyg", "depth=3", "channels=8", *settings))
    assert "\n" not in str(raised.value)


def test_a_run_with_an_operator_of_normals_is_scored_where_its_library_is_trusted(tmp_path, data_root):  # noqa: F811
    parts = ["conv=pyg", f"{PYG}PPFConv", "conv.networks={local_nn:[in+4,out]}", "model.positions=[0,1,2]", SILU]
    run("train", *TINY, *parts, f"data.root={data_root}", f"hydra.run.dir={tmp_path}/run", "max_steps=2")
    score = ["evaluate", f"checkpoint={tmp_path}/run", f"hydra.run.dir={tmp_path}/scores", "device=cpu"]
    refused = run(*score, check=False)
    assert refused.returncode == 2
    assert "uses torch_geometric.nn.PPFConv; if you trust that code, set trusted=[torch_geometric.nn]" in refused.stderr
    scored = run(*score, f"data.root={data_root}", "trusted=[torch_geometric.nn]")
    assert "mIoU" in scored.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [
        ["conv=pyg"],
        ["conv=pyg", f"{PYG}NNConv", "conv.networks={nn:[3,16,in*out]}", "conv.edge_positions=true", "backbone=revgcn"],
        ["conv=edge", GROUPS, SILU],
    ],
    ids=str,
)
def test_a_short_training_with_other_parts(parts, tmp_path, data_root):  # noqa: F811
    run("train", *TINY, *parts, f"data.root={data_root}", f"hydra.run.dir={tmp_path}/run", "max_steps=2")
    assert (tmp_path / "run" / "metrics.json").is_file()
