"""Checkpoints: whole, complete, and data only, whatever a file says."""

import inspect
import pickle
import struct
import sys
import zipfile
from types import ModuleType

import pytest
import torch

from deepgcn_seg import DeepGCN, load_model
from deepgcn_seg.data.classes import S3DIS
from deepgcn_seg.errors import UserError
from deepgcn_seg.model import MessagePassing, MRConv
from deepgcn_seg.model.checkpoint import describe, find_checkpoint, read_checkpoint, save_checkpoint
from deepgcn_seg.model.description import Description, Network, describe_network
from deepgcn_seg.model.from_description import build_network

NETWORK = {
    "depth": 2,
    "channels": 8,
    "k": 4,
    "fusion_channels": 16,
    "head_channels": [16, 8],
    "conv": {"name": "mr"},
}
TRAINED_ON = {"points": 64, "batch_size": 2}


def small():
    return DeepGCN(depth=2, channels=8, k=4, fusion_channels=16, head_channels=(16, 8), conv=MRConv)


@pytest.fixture
def saved(tmp_path):
    save_checkpoint(tmp_path / "a.ckpt", small(), NETWORK, S3DIS, TRAINED_ON, step=3)
    return tmp_path / "a.ckpt"


def changed(path, change):
    """The checkpoint at ``path`` with its content changed by hand, as whoever sends one can."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def refused(path, message, **settings):
    with pytest.raises(UserError, match=message) as raised:
        load_model(path, **settings)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_round_trip(tmp_path):
    model = small().eval()
    save_checkpoint(tmp_path / "a.ckpt", model, NETWORK, S3DIS, step=3)
    loaded = load_model(tmp_path / "a.ckpt")
    points = torch.rand(1, 30, 9)
    assert torch.equal(loaded(points), model(points))
    assert loaded.classes.palette == S3DIS.palette
    assert read_checkpoint(tmp_path / "a.ckpt")["step"] == 3
    assert list(tmp_path.iterdir()) == [tmp_path / "a.ckpt"]


def test_a_description_has_every_argument_of_the_network_with_its_default():
    arguments = inspect.signature(DeepGCN).parameters
    assert set(Network.model_fields) == set(arguments)
    plain = Network().model_dump(mode="python")
    for name, argument in arguments.items():
        assert name == "conv" or plain[name] == argument.default


@pytest.mark.parametrize(
    "conv",
    [
        {"_target_": "deepgcn_seg.model.EdgeConv", "_partial_": True},
        {"_target_": "deepgcn_seg.model.GraphSAGE", "_partial_": True, "normalize": True},
        {"_target_": "deepgcn_seg.model.GIN", "_partial_": True, "learn_eps": False},
        {"_target_": "deepgcn_seg.model.GENConv", "_partial_": True, "aggregation": "power", "mlp_layers": 2},
        {
            "_target_": "deepgcn_seg.model.MessagePassing",
            "_partial_": True,
            "operator": {
                "_target_": "torch_geometric.nn.GATv2Conv",
                "_partial_": True,
                "heads": 2,
                "concat": False,
                "add_self_loops": False,
            },
        },
        {
            "_target_": "deepgcn_seg.model.MessagePassing",
            "_partial_": True,
            "operator": {"_target_": "torch_geometric.nn.TransformerConv", "_partial_": True, "concat": False},
        },
    ],
)
@pytest.mark.parametrize("connection", ["res", "dense", "rev"])
def test_what_hydra_builds_and_what_the_checkpoint_builds_are_the_same(tmp_path, conv, connection):
    from hydra.utils import instantiate

    config = {"_target_": "deepgcn_seg.DeepGCN", "_convert_": "all", "connection": connection, "conv": conv}
    config |= {key: NETWORK[key] for key in ("depth", "channels", "k", "fusion_channels", "head_channels")}
    config |= {"dilation": [1, 2], "act": "prelu", "order": "act-norm", "norm_eps": 1e-3}
    model = instantiate(config).eval()
    save_checkpoint(tmp_path / "a.ckpt", model, describe_network(config), S3DIS)
    loaded = load_model(tmp_path / "a.ckpt")
    points = torch.rand(2, 40, 9)
    assert torch.equal(loaded(points), model(points))


def test_a_failed_write_leaves_the_old_file(saved):
    before = saved.read_bytes()
    with pytest.raises(Exception, match="weights_only|Unsupported|pickle"):
        # A value that weights_only=True would refuse must not replace a good checkpoint.
        save_checkpoint(saved, small(), NETWORK, S3DIS, extra=torch.nn.Linear)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04", "truncated", "foreign", "format 1"])
def test_bad_files(saved, content):
    if content == "truncated":
        saved.write_bytes(saved.read_bytes()[:-2000])
    elif content == "foreign":
        torch.save({"state_dict": {}}, saved)
    elif content == "format 1":
        changed(saved, lambda c: c.update(format=1))
    else:
        saved.write_bytes(content)
    refused(saved, r"a\.ckpt")


def test_a_run_directory_stands_for_its_best_checkpoint_or_its_last(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    with pytest.raises(UserError, match="without checkpoints"):
        find_checkpoint(tmp_path)
    for name in ("last.ckpt", "best.ckpt"):
        save_checkpoint(folder / name, small(), NETWORK, S3DIS)
        assert find_checkpoint(tmp_path / "run") == find_checkpoint(folder) == folder / name
    assert load_model(tmp_path / "run").classes.names == S3DIS.names


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ('{"settings": {"select": "last"}}', "last.ckpt"),
        ('{"settings": {"select": "validation"}}', "best.ckpt"),
        ('{"settings": 3}', "best.ckpt"),
        ("damaged", "best.ckpt"),
    ],
)
def test_a_run_that_scored_its_last_checkpoint_stands_for_that_one(tmp_path, record, name):
    folder = tmp_path / "run" / "checkpoints"
    for each in ("last.ckpt", "best.ckpt"):
        save_checkpoint(folder / each, small(), NETWORK, S3DIS)
    (tmp_path / "run" / "run.json").write_text(record)
    assert find_checkpoint(tmp_path / "run") == find_checkpoint(folder) == folder / name


# A file names no code.


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda folder: Evil(str(folder / "touched")), "names _?io open"),
        (lambda folder: bytearray(9), "bytearray"),
        (lambda folder: torch.eye(3).to_sparse(), "sparse"),
        (lambda folder: torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8), "qtensor"),
        (lambda folder: torch.empty(3, device="meta"), "meta"),
    ],
)
def test_a_pickle_names_nothing_but_what_state_dicts_are_made_of(tmp_path, value, message, legacy):
    from deepgcn_seg.model.tensor_file import read_tensor_file

    path = tmp_path / "x.ckpt"
    torch.save({"format": 2, "x": value(tmp_path)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=message):
        read_tensor_file(path, legacy=True)
    assert not (tmp_path / "touched").exists()


def test_plain_pickles_and_the_old_format_are_no_checkpoints_of_ours(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps(Evil(str(tmp_path / "touched"))))
    torch.save({"format": 2}, tmp_path / "b.ckpt", _use_new_zipfile_serialization=False)
    for name in ("a.ckpt", "b.ckpt"):
        refused(tmp_path / name, "not a file of torch.save")
    assert not (tmp_path / "touched").exists()


PROGRAMS = [
    {"_target_": "os.system", "command": "touch {}"},
    "${{oc.create:{{_target_:os.system,_args_:['touch {}']}}}}",
    "${{elsewhere}}",
    {"name": "own", "target": "os.system", "options": {"command": "touch {}"}},
    {"name": "own", "target": "deepgcn_seg.model.checkpoint.torch.os.system", "options": {"command": "touch {}"}},
    {"name": "own", "target": "subprocess.getoutput", "options": {"cmd": "touch {}"}},
]


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
@pytest.mark.parametrize(
    "field", ["conv", "dropout", "dilation", "norm", "model_config", "classes", "palette", "trained_on"]
)
def test_no_field_runs_code(saved, program, field):
    fill = lambda v: (
        v.format(saved.parent / "touched")
        if isinstance(v, str)
        else {key: fill(value) for key, value in v.items()}
        if isinstance(v, dict)
        else v
    )

    def change(content):
        place = content if field in content else content["model_config"]
        place[field] = fill(program)
        content["elsewhere"] = fill(PROGRAMS[0])

    refused(changed(saved, change), field if isinstance(program, str) else "checkpoint")
    refused(saved, "checkpoint", trusted=["mine"])
    assert not (saved.parent / "touched").exists()


OWN = """
import os
import torch
from torch import nn
from os import system
from deepgcn_seg.model import MRConv

class Conv(MRConv):
    def __init__(self, *a, scale=1.0, **k):
        super().__init__(*a, **k)
        self.scale = scale
"""


@pytest.fixture
def own_module(monkeypatch):
    module = ModuleType("mine_of_test")
    exec(OWN.replace("class Conv", "__name__ = 'mine_of_test'\nclass Conv"), module.__dict__)
    monkeypatch.setitem(sys.modules, "mine_of_test", module)
    return module


def test_own_parts_are_built_only_where_their_module_is_trusted(tmp_path, own_module):
    path = tmp_path / "a.ckpt"
    conv = {"_target_": "mine_of_test.Conv", "_partial_": True, "scale": 2.0}
    network = describe_network({"_target_": "deepgcn_seg.DeepGCN", **NETWORK, "conv": conv})
    save_checkpoint(path, small(), network, S3DIS)
    for trusted in ((), ["mine"], ["mine_of_test.sub"], ["torch"]):
        refused(path, r"uses mine_of_test\.Conv; .* trusted=\[mine_of_test\]", trusted=trusted)
    for trusted in (["mine_of_test"], ["mine_of_test."], "mine_of_test"):
        assert load_model(path, trusted=trusted).backbone.head.scale == 2.0


@pytest.mark.parametrize("trusted", [5, None, [1], [["mine"]], ""])
def test_trusted_is_a_list_of_names(saved, trusted):
    with pytest.raises(UserError, match="trusted=.*: must be a list of names of modules"):
        load_model(saved, trusted=trusted)


@pytest.mark.parametrize(
    "target", ["mine_of_test.system", "mine_of_test.os.system", "mine_of_test.absent", "absent.Conv"]
)
def test_what_a_trusted_module_imports_is_not_trusted(saved, own_module, target):
    change = lambda c: c["model_config"].update(conv={"name": "own", "target": target, "options": {}})
    refused(changed(saved, change), "uses", trusted=["mine_of_test", "absent"])


def test_a_whole_network_of_ones_own_loads_where_it_is_trusted(tmp_path, own_module):
    own_module.Net = type("Net", (DeepGCN,), {"__module__": "mine_of_test"})
    config = {"_target_": "mine_of_test.Net", **NETWORK}
    config["conv"] = {"_target_": "deepgcn_seg.model.MRConv", "_partial_": True}
    save_checkpoint(tmp_path / "a.ckpt", small(), describe_network(config), S3DIS)
    refused(tmp_path / "a.ckpt", r"mine_of_test\.Net")
    assert type(load_model(tmp_path / "a.ckpt", trusted=["mine_of_test"])) is own_module.Net


def test_other_operators_of_torch_geometric_need_trust(tmp_path):
    from torch_geometric.nn import TAGConv

    operator = {"_target_": "torch_geometric.nn.TAGConv", "_partial_": True, "K": 1}
    conv = {"_target_": "deepgcn_seg.model.MessagePassing", "_partial_": True, "operator": operator}
    network = describe_network({"_target_": "deepgcn_seg.DeepGCN", **NETWORK, "conv": conv})
    build = lambda *args: MessagePassing(*args, operator=lambda c_in, c_out: TAGConv(c_in, c_out, K=1))
    model = DeepGCN(depth=2, channels=8, k=4, fusion_channels=16, head_channels=(16, 8), conv=build).eval()
    save_checkpoint(tmp_path / "a.ckpt", model, network, S3DIS)
    refused(tmp_path / "a.ckpt", r"trusted=\[torch_geometric\.nn\]")
    points = torch.rand(1, 30, 9)
    assert torch.equal(load_model(tmp_path / "a.ckpt", trusted=["torch_geometric"])(points), model(points))


# A file claims no more than it holds, and what it says fits together.


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("model_config", "depth"), 10**9, "depth=1000000000"),
        (("model_config", "depth"), 9_999, "needs blocks of"),
        (("model_config", "depth"), 3, "missing"),
        (("model_config", "depth"), 2.0, "depth=2.0"),
        (("model_config", "depth"), True, "depth=True"),
        (("model_config", "depth"), torch.tensor(2), "depth=tensor"),
        (("model_config", "k"), 10**9, "k=1000000000"),
        (("model_config", "k"), 65, "needs blocks of 65 points"),
        (("model_config", "head_channels"), [60_000, 8], r"\(16, 24\)|60000"),
        (("model_config", "fusion_channels"), 60_000, "60000"),
        (("model_config", "groups"), 0, "groups=0"),
        (("model_config", "positions"), [], "positions"),
        (("model_config", "positions"), [-1], "positions=.*-1 must be an integer"),
        (("model_config", "positions"), [9], "do not exist"),
        (("model_config", "positions"), ["\ud800"], "must be an integer"),
        (("model_config", "head_channels"), [10**600], "must be an integer"),
        (("model_config", "norm"), "\ud800", "must be one of"),
        (("trained_on", "name"), "\ud800", "name"),
        (("classes",), ["\ud800"] * 13, "printable"),
        (("model_config", "dropout"), float("nan"), "dropout=nan"),
        (("model_config", "norm_eps"), float("inf"), "norm_eps=inf"),
        (("model_config", "dilation"), [0], "dilation"),
        (("model_config", "dilation"), [], "dilation"),
        (("model_config", "connection"), "ring", "connection='ring'"),
        (("model_config", "connection"), "dense", "tensor"),
        (("model_config", "norm"), "none", "not of its network"),
        (("model_config", "more"), 1, "unknown field model_config.more"),
        (("model_config", "conv"), {"name": "edge", "more": 1}, "unknown field"),
        (("model_config", "conv"), {"name": "gen", "mlp_layers": 10**6}, "mlp_layers=1000000"),
        (("model_config",), 5, "model_config"),
        (("classes",), ["a"] * 13, "unique"),
        (("classes",), ["a", "b"], "one colour each"),
        (("classes",), 5, "classes=5"),
        (("classes",), ["a\nb", *"bcdefghijklm"], "printable"),
        (("palette",), [[300, 0, 0]] * 13, "three numbers of 0..255, is .300"),
        (("palette",), [[1, 2]] * 13, "palette.0"),
        (("trained_on", "points"), -5, "points=-5"),
        (("trained_on", "points"), "many", "points='many'"),
        (("trained_on", "points"), 1, "needs blocks of 4 points"),
        (("trained_on", "points"), 10**9, "points=1000000000"),
        (("trained_on", "batch_size"), -3, "batch_size=-3"),
        (("trained_on", "batch_size"), 10**6, "batch_size"),
        (("trained_on", "side"), 0, "side=0"),
        (("trained_on", "side"), float("nan"), "side=nan"),
        (("trained_on", "variant"), "z", "variant='z'"),
        (("trained_on", "features"), ["nope"], "features.0='nope'"),
        (("trained_on", "features"), ["block"], "9 input channels"),
        (("trained_on", "features"), ["block", "block", "room"], "once each"),
        (("trained_on", "source"), "os", "source='os'"),
        (("trained_on", "synthetic"), {"rooms_per_area": 10**9}, "rooms_per_area=1000000000"),
        (("step",), "x", "step must"),
        (("format",), torch.ones(3), "format"),
        (("format",), [2], "format"),
    ],
)
def test_fields_that_do_not_fit_are_one_line(saved, keys, value, message):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    refused(changed(saved, change), message)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (lambda t: torch.full_like(t, torch.nan), "NaN or infinite"),
        (lambda t: torch.full_like(t, torch.inf), "NaN or infinite"),
        (lambda t: t.to(torch.complex64), "Complex|complex"),
        (lambda t: t.long(), "int64"),
        (lambda t: t[:1], r"is \(1, "),
        (lambda t: t[None], "is "),
        (lambda t: None, "not tensors"),
        (lambda t: t[:1, :1].expand(10**6, 10**6), "more than the file holds"),
    ],
)
def test_weights_that_are_not_the_networks_are_refused(saved, tensor, message):
    change = lambda c: c["model"].update(
        {"fusion.layer.linear.weight": tensor(c["model"]["fusion.layer.linear.weight"])}
    )
    refused(changed(saved, change), message)


def test_more_layers_than_tensors_are_never_built(saved):
    refused(
        changed(saved, lambda c: c["model_config"].update(depth=9_999, dilation="none")), "9999 convolutions cannot"
    )


def test_negative_variances_are_refused(saved):
    refused(changed(saved, lambda c: c["model"]["fusion.layer.norm.running_var"].fill_(-1)), "negative variances")


def rewritten(path, change):
    """The archive with its records changed: (name, bytes, compression) -> the same."""
    with zipfile.ZipFile(path) as archive:
        records = [(r.filename, archive.read(r), zipfile.ZIP_STORED) for r in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data, compression in change(records):
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: [(n, d, zipfile.ZIP_DEFLATED) for n, d, _ in records], "compressed"),
        (lambda records: [(n, b"" if "/data/" in n else d, c) for n, d, c in records], "damaged"),
        (lambda records: [*records, records[0]], "not an archive of torch.save"),
        (lambda records: [r for r in records if not r[0].endswith("data.pkl")], "not an archive of torch.save"),
    ],
)
def test_archives_that_inflate_or_lack_what_they_claim_are_refused(saved, change, message):
    refused(rewritten(saved, change), message)


def test_archives_that_two_readers_would_read_differently_are_refused(saved):
    good = saved.read_bytes()
    saved.write_bytes(good + b"comment")
    refused(saved, "damaged")
    saved.write_bytes(good[:-2] + b"\x02\x00" + b"zz")
    refused(saved, "damaged")
    saved.write_bytes(b"PK\x03\x04" + good)
    refused(saved, "damaged")


def test_one_storage_under_many_tensors_is_not_copied_many_times(tmp_path):
    base = torch.zeros(200_000)
    torch.save({"format": 2, "model": {str(i): base[i:] for i in range(200)}}, tmp_path / "a.ckpt")
    refused(tmp_path / "a.ckpt", "more than the file holds")


def write_pickle(path, pickle):
    """An archive of torch.save with a pickle of one's own."""
    return rewritten(path, lambda records: [(n, pickle if n.endswith("data.pkl") else d, c) for n, d, c in records])


DOUBLED = b"(t" + b"q\x01" + b"h\x01h\x01\x86q\x01" * 60


@pytest.mark.parametrize(
    ("pickle", "message"),
    [
        (b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s.", "keys"),
        (b"\x80\x02}" + DOUBLED + b"K\x01s.", "keys"),
        (b"\x80\x02ccollections\nOrderedDict\n)R" + DOUBLED + b"K\x01s.", "keys"),
        (b"\x80\x02}(" + DOUBLED + b"K\x01u.", "keys"),
        (b"\x80\x02" + DOUBLED + b"Q.", "storage"),
        (b"\x80\x02(" + b"X\x07\x00\x00\x00storage" + b"ctorch\nFloatStorage\n" + DOUBLED + b"tQ.", "storage"),
        (b"\x80\x02ctorch\nFloatStorage\nK\x05\x85R.", "calls"),
        (b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.", "bytearray"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "STACK_GLOBAL"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02s.", "damaged"),
        (b"\x80\x02", "damaged"),
    ],
)
def test_a_pickle_does_nothing_but_put_state_dicts_together(saved, pickle, message):
    refused(write_pickle(saved, pickle), message)


def test_shared_tuples_are_not_written_out(saved):
    value = ()
    for _ in range(60):
        value = (value, value)
    for key in ("step", "format", "classes", "trained_on", "model_config", "palette"):
        refused(changed(saved, lambda c, key=key: c.update({key: value})), "checkpoint")


@pytest.mark.parametrize(
    "part",
    [
        {"name": "own", "target": "deepgcn_seg.model.GENConv", "options": {"mlp_layers": 10**6}},
        {"name": "own", "target": "deepgcn_seg.DeepGCN", "options": {"depth": 10**6}},
        {
            "name": "own",
            "target": "deepgcn_seg.model.MessagePassing",
            "options": {"operator": {"_target_": "deepgcn_seg.model.GENConv", "mlp_layers": 10**6}},
        },
    ],
)
@pytest.mark.parametrize("field", ["conv", None])
def test_our_own_classes_are_never_built_without_their_ranges(saved, part, field):
    refused(
        changed(saved, lambda c: (c["model_config"] if field else c).update({field or "model_config": part})), "uses"
    )


def test_a_directory_that_another_record_points_to_is_refused(saved):
    good = saved.read_bytes()
    end = good[-22:]
    large = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 46, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 4, 1)
    saved.write_bytes(good[:-22] + large + locator + end)
    refused(saved, "damaged")


def test_names_from_a_file_stay_in_one_line_and_add_no_colours(saved):
    change = lambda c: c["model"].update({"\x1b[31mred\nnext" + "a" * 10_000: torch.ones(1)})
    with pytest.raises(UserError, match="not of its network") as raised:
        load_model(changed(saved, change))
    assert str(raised.value).isprintable() and len(str(raised.value)) < 500


@pytest.mark.parametrize("changes", [{"k": 60_000}, {"channels": 65_536, "depth": 1}])
def test_one_block_takes_no_more_memory_than_a_large_training(changes):
    network = {**NETWORK, "dilation": "none", **changes}
    content = {"model_config": network, "classes": S3DIS.names, "palette": S3DIS.palette}
    with pytest.raises(UserError, match="too many"):
        Description.of({**content, "trained_on": {"points": 2**17}}, "x")


def test_mappings_that_hold_one_another_end_at_once(saved):
    value = [1]
    for _ in range(100):
        value = [value, value]
    refused(changed(saved, lambda c: c["model_config"].update(positions=value)), "more than")


def test_every_bound_of_a_description_lets_a_large_network_pass():
    network = Network.of({"depth": 112, "channels": 512, "connection": "rev", "k": 32, "dilation_period": 14}, "x")
    with torch.device("meta"):
        assert sum(p.numel() for p in build_network(network).parameters()) > 10**7


def test_the_state_of_a_description_is_read_back(saved):
    description = describe(read_checkpoint(saved), saved)
    assert description.network.conv.name == "mr"
    assert description.trained_on.points == 64
    assert description.class_list.names == S3DIS.names
