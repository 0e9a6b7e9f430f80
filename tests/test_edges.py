"""Edge aggregation against the edges themselves, in values and gradients."""

import pytest
import torch
from torch.autograd import gradcheck

from deepgcn_seg import ops


@pytest.fixture(params=["torch", "numba"])
def backend(request):
    with ops.backend(request.param):
        yield request.param


def case(count=23, channels=37, k=5, batch=2, dtype=torch.float64):
    a, b = torch.randn(2, batch, count, channels, dtype=dtype).unbind(0)
    index = torch.randint(0, count, (batch, count, k))
    return a.requires_grad_(), b.requires_grad_(), index


def moments(a, b, index, slope, mask=None):
    """Those of phi(a_i + b_j): with weights that pass both on as they are, exactly."""
    one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    weight = torch.cat([one, one, torch.zeros_like(one), one], 1)
    return ops.edge_extremum(torch.cat([a, b], -1), weight, None, index, mask, slope=slope)[1:]


@pytest.fixture(params=[False, True], ids=["whole", "masked"])
def mask(request):
    return torch.rand(2, 23) < 0.6 if request.param else None


def test_neighbor_max_by_a_loop(backend):
    _, b, index = case()
    sign = torch.where(torch.arange(37) % 3 == 0, -1.0, 1.0)
    found = ops.neighbor_max(b, index, sign=sign)
    for i in (0, 11, 22):
        rows = b[1, index[1, i]]
        assert torch.equal(found[1, i], torch.where(sign > 0, rows.amax(0), rows.amin(0)))


def test_neighbor_max_gradient(backend, mask):
    _, b, index = case()
    sign = torch.randn(37).sign().double()
    assert gradcheck(lambda b: ops.neighbor_max(b, index, mask, sign), (b,))


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0, -0.3])
def test_moments_by_the_edges(backend, mask, slope):
    a, b, index = case()
    mean, var = moments(a, b, index, torch.full((37,), slope), mask)
    edges = a[:, :, None] + ops.gather_neighbors(b, index)
    edges = torch.where(edges > 0, edges, slope * edges)
    for i in range(2):
        kept = edges[i] if mask is None else edges[i, mask[i]]
        kept = kept.reshape(-1, 37)
        assert torch.allclose(mean[i], kept.mean(0))
        assert torch.allclose(var[i], kept.var(0, correction=0))


def test_moments_gradient(backend, mask):
    a, b, index = case()
    slope = torch.rand(37, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda a, b, s: moments(a, b, index, s, mask), (a, b, slope))


def test_result_does_not_depend_on_threads(set_threads):
    """Values and gradients of as many edges as more than one thread takes."""
    x, _, index = case(count=600, channels=64, dtype=torch.float32)
    weight = torch.randn(64, 128, requires_grad=True)
    slope = torch.rand(64, requires_grad=True)
    results = []
    for threads in (1, 3):
        set_threads(threads)
        with ops.backend("numba"):
            found = ops.edge_extremum(x, weight, None, index, slope=slope)
            loss = sum((part * torch.linspace(-1, 1, part.numel()).view(part.shape)).sum() for part in found)
            results.append([*found, *torch.autograd.grad(loss, (x, weight, slope))])
    # PyTorch's products of matrices sum in another order on other numbers of threads.
    for one, other in zip(*results):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(one.detach().abs().max()))


@pytest.mark.parametrize("padding", [0, 300])
def test_variance_far_from_zero_keeps_its_digits(backend, padding):
    """Also that of blocks far from each other, and from their padding."""
    a, b, index = case(count=500, dtype=torch.float32)
    a = a + torch.tensor([3000.0, -3000.0])[:, None, None]
    edges = a.double()[:, :, None] + ops.gather_neighbors(b.double(), index)
    a, b, index = (torch.cat([part, part.new_zeros(2, padding, part.shape[2])], 1) for part in (a, b, index))
    mask = torch.arange(500 + padding).expand(2, -1) < 500 if padding else None
    with torch.no_grad():
        mean, var = moments(a, b, index, torch.ones(37), mask)
    assert torch.allclose(mean.double(), edges.mean((1, 2)), rtol=1e-6)
    assert torch.allclose(var.double(), edges.var((1, 2), correction=0), rtol=1e-3)


def edge_case(count=9, channels=3, out=4, k=3):
    x = torch.randn(2, count, channels, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(out, 2 * channels, dtype=torch.float64, requires_grad=True)
    bias, slope = (torch.rand(out, dtype=torch.float64, requires_grad=True) for _ in range(2))
    sign = torch.where(torch.arange(out) % 3 == 0, -1.0, 1.0).double()
    mask = torch.arange(count).expand(2, -1) < torch.tensor([[count], [count - 3]])
    return x, weight, bias, torch.randint(0, count, (2, count, k)), mask, sign, slope


@pytest.mark.parametrize("moments", [True, False])
def test_extremum_by_the_edges(backend, moments):
    x, weight, bias, index, mask, sign, slope = edge_case()
    neighbors = ops.gather_neighbors(x, index)
    own = x[:, :, None].expand_as(neighbors)
    edges = torch.cat([own, neighbors - own], -1) @ weight.t() + bias
    found = ops.edge_extremum(x, weight, bias, index, mask, sign, slope if moments else None)
    expected = torch.where(sign > 0, edges.amax(2), edges.amin(2))
    assert torch.allclose(found[0][mask], expected[mask])
    if not moments:
        assert found[1:] == (None, None)
        return
    phi = torch.where(edges > 0, edges, slope * edges)
    for block in range(2):
        kept = phi[block, mask[block]].flatten(0, 1)
        assert torch.allclose(found[1][block], kept.mean(0))
        assert torch.allclose(found[2][block], kept.var(0, correction=0))


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_extremum_gradient(backend, masked, biased):
    x, weight, bias, index, mask, sign, slope = edge_case()
    mask = mask if masked else None
    given = (x, weight, bias, slope) if biased else (x, weight, slope)

    def operation(x, weight, *rest):
        return ops.edge_extremum(x, weight, rest[0] if biased else None, index, mask, sign, rest[-1])

    assert gradcheck(operation, given)
    assert gradcheck(lambda x, weight: ops.edge_extremum(x, weight, None, index, mask, sign)[0], (x, weight))


def test_products_are_not_kept_for_backward():
    x, index = torch.randn(1, 300, 64, requires_grad=True), torch.randint(0, 300, (1, 300, 16))
    weight = torch.randn(64, 128, requires_grad=True)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.update({t.data_ptr(): t.nbytes}) or t, lambda t: t):
        ops.edge_extremum(x, weight, None, index, slope=torch.ones(64))
    assert sum(kept.values()) < x.nbytes + index.nbytes + x.nbytes / 2 + weight.nbytes + 4 * 64 * 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_up_in_float32(dtype):
    halves = [t.detach().to(dtype).requires_grad_() for t in case()[:2]]
    index, slope, sign = case()[2], torch.full((37,), 0.25), torch.where(torch.arange(37) % 3 == 0, -1.0, 1.0)
    wholes = [t.detach().float().requires_grad_() for t in halves]
    with ops.backend("numba"):
        results = [(ops.neighbor_max(b, index, sign=sign), *moments(a, b, index, slope)) for a, b in (halves, wholes)]
    assert [t.dtype for t in results[0]] == [dtype, torch.float32, torch.float32]
    for half, whole in zip(*results):
        assert torch.equal(half.float(), whole)
    gradients = [
        torch.autograd.grad(sum(t.float().square().sum() for t in result), inputs)
        for result, inputs in zip(results, (halves, wholes))
    ]
    for half, whole in zip(*gradients):
        assert half.dtype == dtype
        assert torch.allclose(half.float(), whole, rtol=2e-2, atol=1e-2)


def test_no_edge_sized_tensor_is_kept_for_backward():
    """Memory of a layer is that of its nodes: nothing saved has N k C entries."""
    a, b, index = case(count=200, k=16, dtype=torch.float32)
    sizes = []
    weight = torch.randn(37, 2 * 37, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        ops.edge_extremum(a, weight, None, index, slope=torch.ones(37))
        ops.neighbor_max(b, index)
    assert max(sizes) <= 2 * 200 * 37


@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "channels first"])
def test_operations_pass_opcheck(backend, contiguous):
    a, b, index = (t.detach() for t in case(dtype=torch.float32))
    if not contiguous:
        a, b = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (a, b))
    sign, moment = torch.ones(37), torch.rand(2, 37)
    operations = torch.ops.deepgcn_seg
    _, place = operations.neighbor_extremum(b, index, None, sign)
    for operation, arguments in (
        (operations.nearest_ranks, (b, torch.arange(3), None, True)),
        (operations.neighbor_extremum, (b, index, None, sign)),
        (operations.neighbor_extremum_backward, (a, index, None, place)),
        (operations.edge_moments, (a, b, index, sign, None)),
        (operations.edge_moments_backward, (a, b, index, sign, None, moment, moment)),
    ):
        torch.library.opcheck(operation, arguments)


WRONG_NEIGHBORS = {
    "one block's for two": torch.zeros(1, 6, 3, dtype=torch.int64),
    "fewer points": torch.zeros(2, 5, 3, dtype=torch.int64),
    "more points": torch.zeros(2, 7, 3, dtype=torch.int64),
    "none": torch.zeros(2, 6, 0, dtype=torch.int64),
    "flat": torch.zeros(2, 6, dtype=torch.int64),
    "int32": torch.zeros(2, 6, 3, dtype=torch.int32),
    "more than have places": torch.zeros(2, 6, 1 << 15, dtype=torch.int64),
}


@pytest.mark.parametrize("wrong", WRONG_NEIGHBORS)
def test_wrong_neighbors_are_refused(wrong):
    x, index = torch.rand(2, 6, 4), WRONG_NEIGHBORS[wrong]
    with pytest.raises(ValueError, match="index: "):
        ops.neighbor_max(x, index)
    with pytest.raises(ValueError, match="index: "):
        ops.edge_extremum(x, torch.rand(5, 8), None, index)


@pytest.mark.parametrize("blocks", [1, 3])
def test_neighbors_of_other_blocks_are_refused(blocks):
    with pytest.raises(ValueError, match=f"index: neighbours in {blocks} blocks?, but the features are of 2"):
        ops.gather_neighbors(torch.rand(2, 6, 4), torch.zeros(blocks, 6, 3, dtype=torch.int64))


def test_neighbors_of_some_points_are_gathered():
    x, index = torch.rand(2, 6, 4), torch.randint(6, (2, 3, 5))
    assert torch.equal(ops.gather_neighbors(x, index)[1, 2, 4], x[1, index[1, 2, 4]])


def test_the_last_of_the_most_neighbors_gets_its_gradient():
    x = torch.tensor([[[0.0], [1.0]]], requires_grad=True)
    index = torch.zeros(1, 2, (1 << 15) - 1, dtype=torch.int64)
    index[..., -1] = 1
    ops.neighbor_max(x, index).sum().backward()
    assert x.grad.tolist() == [[[0.0], [2.0]]]


@pytest.mark.parametrize("outside", [-1, 6, 10**6])
@pytest.mark.parametrize("points", [6, 3000], ids=["one thread", "several threads"])
def test_neighbors_outside_of_the_block_are_refused(points, outside, set_threads):
    set_threads(2)
    x = torch.rand(2, points, 64)
    index = torch.randint(points, (2, points, 9))
    index[1, points // 2, 4] = outside if outside != 6 else points
    with pytest.raises(IndexError, match="0 to N - 1"):
        ops.neighbor_max(x, index)
    # A point that is absent has no neighbours.
    mask = torch.ones(2, points, dtype=torch.bool)
    mask[1, points // 2] = False
    assert torch.isfinite(ops.neighbor_max(x, index, mask)).all()


def test_unknown_backend():
    with pytest.raises(ValueError, match="cuda9"):
        ops.set_backend("cuda9")
