import pytest
import torch

from deepgcn_seg.model import DilatedKnnGraph, dilation_schedule


@pytest.mark.parametrize(
    ("dilation", "period", "expected"),
    [
        ("linear", None, [1, 1, 2, 3, 4]),
        ("linear", 2, [1, 1, 2, 1, 2]),
        ("none", None, [1, 1, 1, 1, 1]),
        (3, None, [1, 3, 3, 3, 3]),
        ([1, 2, 4], None, [1, 2, 4, 1, 2]),
    ],
)
def test_schedule(dilation, period, expected):
    assert dilation_schedule(dilation, 5, period) == expected


def test_the_paper_ends_at_27():
    assert dilation_schedule("linear", 28)[-1] == 27


@pytest.mark.parametrize("wrong", ["lineal", [], [0, 1], 0, 1.5])
def test_wrong_schedule(wrong):
    with pytest.raises(ValueError, match="dilation"):
        dilation_schedule(wrong, 4)


def test_evaluation_takes_every_dth_neighbour_self_first():
    graph = DilatedKnnGraph(k=4, dilation=3, epsilon=1.0).eval()
    points = torch.rand(1, 50, 3)
    found = graph(points)
    order = torch.cdist(points, points).argsort(-1)
    assert torch.equal(found, order[:, :, [0, 3, 6, 9]])
    assert torch.equal(found[0, :, 0], torch.arange(50))


def test_stochastic_draws_k_of_k_times_d_without_replacement_at_rate_epsilon():
    graph = DilatedKnnGraph(k=4, dilation=5, epsilon=0.2).train()
    draws = [graph.ranks() for _ in range(4000)]
    regular = torch.arange(4) * 5
    random = [ranks for ranks in draws if not torch.equal(ranks, regular)]
    assert 0.17 < len(random) / 4000 < 0.23
    assert all(len(set(r.tolist())) == 4 and r.min() >= 0 and r.max() < 20 for r in random)
    counts = torch.bincount(torch.cat(random), minlength=20) / len(random)
    assert (counts - 4 / 20).abs().max() < 0.07


def test_one_draw_serves_all_points_and_blocks():
    graph = DilatedKnnGraph(k=3, dilation=4, epsilon=1.0).train()
    points = torch.rand(2, 40, 3)
    order = torch.cdist(points, points).argsort(-1)
    found = graph(points)
    ranks = (order[:, :, :, None] == found[:, :, None]).int().argmax(2)
    assert (ranks == ranks[0, 0]).all()


@pytest.mark.parametrize(("stochastic", "training"), [(False, True), (True, False)])
def test_no_randomness_when_off_or_evaluating(stochastic, training):
    graph = DilatedKnnGraph(k=4, dilation=5, stochastic=stochastic, epsilon=1.0).train(training)
    assert torch.equal(graph.ranks(), torch.arange(4) * 5)


def test_without_loop_no_point_is_its_own_neighbour():
    graph = DilatedKnnGraph(k=6, dilation=2, loop=False).eval()
    found = graph(torch.rand(2, 30, 3))
    assert (found != torch.arange(30)[None, :, None]).all()


@pytest.mark.parametrize(
    "settings", [{"k": 0}, {"dilation": 0}, {"dilation": 1.5}, {"stochastic": "no"}, {"epsilon": 1.5}, {"loop": "no"}]
)
def test_impossible_graph(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        DilatedKnnGraph(**settings)
