"""Neighbour selection against a stable sort of float64 distances."""

import operator
import sys
import threading
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepgcn_seg import ops
from deepgcn_seg.ops.backends import cluster_available, operations_for, search_for
from deepgcn_seg.ops.cpu import tree
from deepgcn_seg.ops.cpu.search import SAMPLE, search
from deepgcn_seg.precision import full_products, products_are_full


def distances(points):
    return torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist").square()


def sorted_neighbors(points, ranks, loop=True):
    d = distances(points)
    if not loop:
        d.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return d.sort(dim=-1, stable=True).indices[:, :, ranks]


# Of 16 points, thresholds are poor and many rows are searched twice; in clouds of fewer than 1024 points too.
SAMPLES = [SAMPLE, 16]


def compiled_search(points, ranks, mask=None, loop=True, sample=SAMPLE):
    out = torch.empty(*points.shape[:2], len(ranks), dtype=torch.int64)
    in_order = ranks.sort()
    search(points, mask, in_order.values, loop, out, sample)
    return out[:, :, in_order.indices.argsort()]


@pytest.fixture(params=["torch", "numba"])
def backend(request):
    with ops.backend(request.param):
        yield request.param


@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize(("count", "channels"), [(37, 3), (256, 64), (1500, 9)])
@pytest.mark.parametrize("dilation", [1, 2, 6])
def test_regular_ranks_are_those_of_a_sort(backend, count, channels, dilation, loop):
    points = torch.rand(2, count, channels)
    ranks = torch.arange(5) * dilation
    found = ops.nearest_ranks(points, ranks, loop=loop)
    # Neighbours are equal but where float32 cannot tell two distances apart.
    expected = sorted_neighbors(points, ranks, loop)
    d = distances(points)
    assert torch.allclose(d.gather(2, found), d.gather(2, expected), atol=1e-5)
    assert (found == expected).float().mean() > 0.999


def test_ranks_keep_their_order(backend):
    points = torch.rand(1, 100, 3)
    ranks = torch.randperm(40)[:7]
    assert torch.equal(ops.nearest_ranks(points, ranks), sorted_neighbors(points, ranks))


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize(("count", "dilation"), [(1200, 20), (1200, 1), (333, 20), (1025, 3)])
def test_integer_grid_ties_break_towards_the_smaller_index(sample, dtype, loop, count, dilation):
    """Exact distances, many ties: the compiled search equals a stable sort in every entry."""
    # Each coordinate and its mirror image: the mean is exactly zero, so centring keeps integers.
    half = torch.randint(0, 3, (3, count // 2, 3)).to(dtype)
    points = torch.cat([half, -half, torch.zeros(3, count % 2, 3, dtype=dtype)], 1)
    ranks = torch.arange(16) * dilation
    found = compiled_search(points, ranks, loop=loop, sample=sample)
    assert torch.equal(found, sorted_neighbors(points, ranks, loop))


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("among", ["points in turn", "points along the longest axis"])
def test_a_sample_that_misleads(among, sample):
    """Every n-th point, which thresholds are taken from, is far nearer than the others."""
    if among == "points in turn":
        points = torch.randn(1, 2048, 5)
        points[0, ::8] *= 1e-3
    else:
        place = torch.arange(2048)
        aside = torch.where(place % 8 == 0, 0, 0.3 * (place % 2 * 2 - 1))
        points = torch.stack([place / 1024, aside, torch.rand(2048) / 1024], 1)[None]
    ranks = torch.arange(16) * 27
    found = compiled_search(points, ranks, sample=sample)
    d = distances(points)
    assert torch.allclose(d.gather(2, found), d.sort(-1).values[:, :, ranks], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sample", SAMPLES)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_size_is_searched_exactly(sample, dtype, data):
    """Odd numbers of points and channels, any ranks, masks, more threads than work: coordinates whose sums are exact."""
    count, channels = data.draw(st.integers(1, 1300)), data.draw(st.integers(1, 70))
    seed, loop = data.draw(st.integers(0, 9)), data.draw(st.booleans()) or count == 1
    generator = torch.Generator().manual_seed(seed)
    half = torch.randint(-4, 5, (1, count, channels), generator=generator).to(dtype)
    points = torch.cat([half, -half], 1)
    # A pair is present or absent together, which keeps the mean at zero.
    mask = (torch.rand(1, count, generator=generator) < 0.8).repeat(1, 2)
    mask[:, ::count] = True
    most = int(mask.sum()) - (not loop)
    ranks = torch.tensor(data.draw(st.lists(st.integers(0, most - 1), min_size=1, max_size=20)))
    d = distances(points).masked_fill(~mask[:, None], torch.inf)
    if not loop:
        d.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    expected = d.sort(dim=-1, stable=True).indices[:, :, ranks]
    found = compiled_search(points, ranks, mask, loop, sample)
    assert torch.equal(found[mask], expected[mask])


SPREADS = ["duplicates", "outlier", "two clusters", "all equal", "tiny", "large"]


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("spread", SPREADS)
def test_piled_up_distances_compiled(spread, sample):
    check_piled_up_distances(spread, lambda points, ranks: compiled_search(points, ranks, sample=sample))


@pytest.mark.parametrize("spread", SPREADS)
def test_piled_up_distances(backend, spread):
    check_piled_up_distances(spread, ops.nearest_ranks)


def check_piled_up_distances(spread, find):
    points = torch.rand(1, 2000, 4)
    if spread == "duplicates":
        points = points[:, torch.randint(0, 50, (2000,))]
    elif spread == "outlier":
        points[0, 7] = 1e4
    elif spread == "two clusters":
        points[0, ::2] += 1000
    elif spread == "all equal":
        points[:] = 0.25
    else:
        # Squares as small and as large as float32 holds with most of its digits.
        points *= 1e-15 if spread == "tiny" else 1e15
    ranks = torch.arange(16) * 27
    found = find(points, ranks)
    d = distances(points)
    expected = d.sort(-1).values[:, :, ranks]
    # Squared distances of float32 coordinates of size s are known to about s^2 eps.
    assert torch.allclose(d.gather(2, found), expected, rtol=1e-3, atol=float(points.abs().max()) ** 2 * 1e-6)


# What a program may set: the precision of all products, and since PyTorch 2.9 that of backends and of their products.
BACKENDS = ["backends.cuda.matmul", "backends.mkldnn.matmul", "backends.cudnn", "backends.mkldnn", "backends"]
PRECISIONS = [{"products": "medium"}, *({place: "tf32"} for place in BACKENDS)]
PRECISIONS += [{"products": "high", "backends.cuda.matmul": "ieee"}]


def set_precision(place, value):
    if place == "products":
        torch.set_float32_matmul_precision(value)
    else:
        operator.attrgetter(place)(torch).fp32_precision = value


def precisions():
    return [operator.attrgetter(place)(torch).fp32_precision for place in BACKENDS]


@pytest.fixture
def reset_precision():
    yield
    set_precision("products", "highest")
    if hasattr(torch.backends, "fp32_precision"):
        for place in BACKENDS:
            set_precision(place, "none")


@pytest.mark.usefixtures("reset_precision")
@pytest.mark.parametrize("given", PRECISIONS, ids=str)
def test_a_lower_matmul_precision_does_not_move_ranks(given, backend):
    by_backend = hasattr(torch.backends, "fp32_precision")
    if not by_backend and list(given) != ["products"]:
        pytest.skip("this PyTorch has one precision for all products")
    points = torch.rand(1, 600, 64)
    ranks = torch.arange(8) * 9
    expected = ops.nearest_ranks(points, ranks)
    for place, value in given.items():
        set_precision(place, value)
    before = precisions() if by_backend else torch.get_float32_matmul_precision()
    assert torch.equal(ops.nearest_ranks(points, ranks), expected)
    assert before == (precisions() if by_backend else torch.get_float32_matmul_precision())
    if "backends" in given:
        # Products that had the precision of all backends still have it.
        set_precision("backends", "none")
        assert set(precisions()) == {"none"}


@pytest.mark.usefixtures("reset_precision")
def test_products_are_full_until_the_last_search_ends():
    set_precision("products", "medium")
    first, second = full_products(), full_products()
    first.__enter__(), second.__enter__()
    first.__exit__(None, None, None)
    assert products_are_full()
    second.__exit__(None, None, None)
    assert torch.get_float32_matmul_precision() == "medium" and not products_are_full()


@pytest.mark.parametrize("padding", [0, 200])
def test_far_from_the_origin(backend, padding):
    """Points of a survey grid: without centring, |x|^2 - 2 x.y + |y|^2 would keep no digit."""
    near = torch.rand(1, 300, 3)
    offset = torch.tensor([4096.0, -8192.0, 512.0])
    # Representable exactly, so that both clouds are the same up to a shift.
    near = (near * 512).round() / 512
    ranks = torch.arange(8) * 3
    d = distances(near)
    far = torch.cat([near + offset, torch.zeros(1, padding, 3)], 1)
    found = ops.nearest_ranks(far, ranks, (far != 0).any(-1) if padding else None)[:, :300]
    assert torch.allclose(d.gather(2, found), d.sort(-1).values[:, :, ranks], atol=1e-5)


def test_masked_points_are_nobodys_neighbours(backend):
    points = torch.rand(2, 60, 3)
    mask = torch.ones(2, 60, dtype=torch.bool)
    mask[0, 40:] = False
    mask[1, ::3] = False
    ranks = torch.arange(4) * 2
    found = ops.nearest_ranks(points, ranks, mask)
    for b in range(2):
        kept = mask[b].nonzero().squeeze(1)
        alone = ops.nearest_ranks(points[b : b + 1, kept], ranks)
        assert torch.equal(found[b, kept], kept[alone[0]])
    assert torch.equal(found[0, 40:], torch.arange(40, 60)[:, None].expand(-1, 4))


def test_absent_points_may_hold_anything(backend):
    points = torch.rand(1, 30, 3)
    mask = torch.arange(30)[None] < 20
    expected = ops.nearest_ranks(points[:, :20], torch.arange(3))
    points[0, 20:] = torch.nan
    assert torch.equal(ops.nearest_ranks(points, torch.arange(3), mask)[:, :20], expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 3e38])
@pytest.mark.parametrize("count", [30, 1500])
def test_values_without_an_order_do_no_harm(backend, value, count):
    points = torch.rand(1, count, 3)
    points[0, ::7] = value
    found = ops.nearest_ranks(points, torch.arange(5) * 5)
    assert found.min() >= 0
    assert found.max() < count


def test_too_few_points(backend):
    with pytest.raises(ValueError, match="only 10 points"):
        ops.nearest_ranks(torch.rand(1, 10, 3), torch.arange(11))
    with pytest.raises(ValueError, match="itself excluded"):
        ops.nearest_ranks(torch.rand(1, 10, 3), torch.arange(10), loop=False)


def test_autocast_does_not_touch_distances(backend):
    points = torch.rand(1, 200, 8) + 3
    ranks = torch.arange(6) * 4
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ops.nearest_ranks(points, ranks), ops.nearest_ranks(points, ranks))
        mixed = ops.nearest_ranks(points, ranks)
    assert torch.equal(mixed, ops.nearest_ranks(points, ranks))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(2, 1300),
    channels=st.integers(1, 6),
    levels=st.sampled_from([1, 2, 5, 1000]),
    wanted=st.integers(1, 12),
)
def test_any_cloud_compiled_equals_plain(seed, count, channels, levels, wanted):
    """Random sizes, coordinates on coarse or fine grids (ties), random ranks."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randint(0, levels, (1, count, channels), generator=generator).float()
    ranks = torch.randperm(count, generator=generator)[:wanted]
    d = distances(points)
    with ops.backend("numba"):
        found = ops.nearest_ranks(points, ranks)
    expected = d.sort(-1).values[:, :, ranks]
    assert torch.allclose(d.gather(2, found), expected, atol=1e-3 * levels**2)


def test_result_does_not_depend_on_threads(set_threads):
    points = torch.rand(2, 700, 5)
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        results.append(ops.nearest_ranks(points, torch.arange(9) * 5))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("ranks", [torch.arange(16), torch.tensor([0, 3, 60])])
def test_search_tree_of_torch_cluster(ranks):
    pytest.importorskip("torch_cluster", reason="torch-cluster is not installed (make cluster builds it)")
    points = torch.rand(2, 3000, 3) + 50
    found = torch.empty(2, 3000, len(ranks), dtype=torch.int64)
    tree.search(points, None, ranks, True, found)
    nearest = distances(points).sort(-1).values
    assert torch.allclose(distances(points).gather(2, found), nearest[:, :, ranks], atol=1e-5)


@pytest.fixture(params=["installed", "missing"])
def torch_cluster(request, monkeypatch):
    """Whether torch-cluster can be imported, for the time of a test."""
    module = ModuleType("torch_cluster") if request.param == "installed" else None
    monkeypatch.setitem(sys.modules, "torch_cluster", module)
    cluster_available.cache_clear()
    yield request.param == "installed"
    cluster_available.cache_clear()


def large_cloud(count=tree.TREE_POINTS, channels=3):
    """Points that take no memory."""
    return torch.zeros(1, 1, channels).expand(1, count, channels)


@pytest.mark.parametrize("name", ["auto", "torch", "numba"])
def test_the_search_tree_is_only_taken_where_no_backend_is_forced(name, torch_cluster, caplog):
    with ops.backend(name), caplog.at_level("INFO"):
        search = search_for(large_cloud(), None, tree.TREE_NEIGHBORS - 1, True)
        exhaustive = operations_for(large_cloud()).search
    assert search == (tree.search if name == "auto" and torch_cluster else exhaustive)
    assert ("make cluster" in caplog.text) == (name == "auto" and not torch_cluster)


@pytest.mark.parametrize(
    ("points", "mask", "furthest", "loop"),
    [
        (large_cloud(tree.TREE_POINTS - 1), None, 15, True),
        (large_cloud(channels=4), None, 15, True),
        (large_cloud(), torch.ones(1, tree.TREE_POINTS, dtype=torch.bool), 15, True),
        (large_cloud(), None, tree.TREE_NEIGHBORS, True),
        (large_cloud(), None, 15, False),
    ],
    ids=["few points", "four channels", "mask", "many neighbours", "without loops"],
)
def test_what_the_search_tree_cannot_answer_or_answers_later_is_searched_exhaustively(points, mask, furthest, loop):
    assert not tree.suits(points, mask, furthest, loop)
    assert tree.suits(large_cloud(), None, 15, True)


def test_the_search_tree_needs_twice_the_points_for_twice_the_neighbours():
    furthest = 2 * tree.TREE_NEIGHBORS - 1
    assert tree.suits(large_cloud(2 * tree.TREE_POINTS), None, furthest, True)
    assert not tree.suits(large_cloud(2 * tree.TREE_POINTS - 1), None, furthest, True)


def test_searching_leaves_pytorchs_threads_as_they_are(set_threads):
    set_threads(3)
    with ops.backend("numba"):
        found = ops.nearest_ranks(torch.rand(2, 700, 9), torch.arange(5))
    assert torch.get_num_threads() == 3
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [3]
    assert found.shape == (2, 700, 5)


@pytest.mark.parametrize("loop", [True, False])
def test_a_row_that_wants_nearly_all_present_points_gets_no_others(loop):
    """The sample is present whole and hardly anyone else is, so that it promises more candidates than there are."""
    points = torch.randn(1, 1027, 5)
    mask = torch.zeros(1, 1027, dtype=torch.bool)
    mask[0, ::4] = mask[0, 1:12:4] = True
    present = mask[0].nonzero()[:, 0]
    ranks = torch.arange(0, 250, 3)
    with ops.backend("numba"):
        found = ops.nearest_ranks(points, ranks, mask, loop)[0, present]
    expected = present[sorted_neighbors(points[:, present].double(), ranks, loop)[0]]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("ranks", [[-1, 0], [0.0, 1.5], [], [[0, 1]], [False, True]], ids=str)
def test_ranks_that_are_none_are_refused(ranks):
    with pytest.raises(ValueError, match="ranks: "):
        ops.nearest_ranks(torch.rand(1, 9, 3), torch.tensor(ranks))
