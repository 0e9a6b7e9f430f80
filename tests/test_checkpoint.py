import pickle

import pytest
import torch

from deepgcn_seg import DeepGCN, load_model
from deepgcn_seg.data.classes import S3DIS
from deepgcn_seg.errors import UserError
from deepgcn_seg.model.checkpoint import read_checkpoint, require_sources, save_checkpoint

CONFIG = {
    "_target_": "deepgcn_seg.DeepGCN",
    "depth": 2,
    "channels": 8,
    "k": 4,
    "fusion_channels": 16,
    "head_channels": [16, 8],
    "conv": {"_target_": "deepgcn_seg.model.MRConv", "_partial_": True},
}


def small():
    from deepgcn_seg.model import MRConv

    return DeepGCN(depth=2, channels=8, k=4, fusion_channels=16, head_channels=(16, 8), conv=MRConv)


def test_round_trip(tmp_path):
    model = small().eval()
    save_checkpoint(tmp_path / "a.ckpt", model, CONFIG, S3DIS, step=3)
    loaded = load_model(tmp_path / "a.ckpt")
    points = torch.rand(1, 30, 9)
    assert torch.equal(loaded(points), model(points))
    assert loaded.classes.palette == S3DIS.palette
    assert read_checkpoint(tmp_path / "a.ckpt")["step"] == 3
    assert list(tmp_path.iterdir()) == [tmp_path / "a.ckpt"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, small(), CONFIG, S3DIS)
    before = path.read_bytes()
    with pytest.raises(Exception, match="weights_only|Unsupported|pickle"):
        # A value that weights_only=True would refuse must not replace a good checkpoint.
        save_checkpoint(path, small(), CONFIG, S3DIS, extra=torch.nn.Linear)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "truncated", "foreign", "format"])
def test_bad_files(tmp_path, content):
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, small(), CONFIG, S3DIS)
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
    elif content == "foreign":
        torch.save({"state_dict": {}}, path)
    elif content == "format":
        torch.save({**read_checkpoint(path), "format": 99}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.ckpt") as raised:
        load_model(path)
    assert "\n" not in str(raised.value)


def test_nothing_is_unpickled_or_called(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match=r"evil\.ckpt"):
        load_model(path)
    for target in (
        "os.system",
        "deepgcn_seg.data.synthetic.generate",
        "builtins.eval",
        "deepgcn_seg.model.__import__",
        "deepgcn_seg.model.checkpoint.torch.os.system",
        "deepgcn_seg.model.checkpoint.save_checkpoint",
        "torch_geometric.nn.Sequential.__init__",
    ):
        command = {"_target_": target, "command": f"touch {tmp_path}/touched"}
        save_checkpoint(path, small(), {**CONFIG, "conv": command}, S3DIS)
        with pytest.raises(UserError):
            load_model(path)
    assert not (tmp_path / "touched").exists()


def test_data_settings_of_a_checkpoint_call_nothing_else():
    require_sources(
        {
            "store": {"_target_": "deepgcn_seg.data.sources.synthetic"},
            "grid": {"_target_": "deepgcn_seg.data.blocks.BlockGrid"},
        },
        "a.ckpt",
    )
    for target in ("os.system", "deepgcn_seg.data.sources.generate", "deepgcn_seg.data.sources.RoomStore"):
        with pytest.raises(UserError, match="would call"):
            require_sources({"store": {"_target_": target}}, "a.ckpt")


def test_own_parts_must_be_trusted_by_name(tmp_path):
    save_checkpoint(tmp_path / "a.ckpt", small(), {**CONFIG, "conv": {"_target_": "mine.Conv"}}, S3DIS)
    with pytest.raises(UserError, match=r"mine\.Conv"):
        load_model(tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="cannot be built"):
        load_model(tmp_path / "a.ckpt", trusted=["mine."])
