"""What TensorBoard shows of a network's inside, against the textbook."""

import torch

from deepgcn_seg import DeepGCN
from deepgcn_seg.training.inspection import gradient_norms, neighbor_distances


def small(**settings):
    return DeepGCN(depth=3, channels=8, k=4, fusion_channels=16, head_channels=(16, 8), **settings)


def test_gradient_norms_are_those_of_each_layers_parameters():
    model = small()
    model(torch.rand(2, 40, 9)).square().sum().backward()
    found = gradient_norms(model)
    assert list(found) == [0, 1, 2]
    head = torch.cat([p.grad.flatten() for p in model.backbone.head.parameters()]).norm()
    last = torch.cat([p.grad.flatten() for p in model.backbone.blocks[1].parameters()]).norm()
    assert abs(found[0] - head) < 1e-5 * head
    assert abs(found[2] - last) < 1e-5 * last


def test_gradients_of_deep_layers_drift_apart_without_connections_and_not_with_them():
    """The paper's reason for residual connections, at depth 28 (with batch norm they explode)."""
    spread = {}
    for connection in ("plain", "res"):
        torch.manual_seed(0)
        model = DeepGCN(connection=connection, depth=28, channels=16, k=4, dilation="none", stochastic=False)
        logits = model(torch.rand(2, 128, 9))
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.randint(13, (256,))).backward()
        norms = gradient_norms(model)
        spread[connection] = max(norms.values()) / min(norms.values())
    assert spread["res"] < 1000 < 10000 < spread["plain"]


def test_neighbors_of_the_head_are_the_nearest_in_space():
    model = small(dilation="none", stochastic=False).eval()
    points = torch.rand(1, 50, 9)
    points[..., 6:] = points[..., :3]
    xyz = points[..., :3]
    found = neighbor_distances(model, points, xyz)
    nearest = torch.cdist(xyz, xyz).topk(4, largest=False).values.mean()
    assert list(found) == [0, 1, 2]
    assert abs(found[0] - nearest) < 1e-3
    assert found[1] > found[0]
