import pytest
from torch import nn

from deepgcn_seg import DeepGCN
from deepgcn_seg.errors import PartError
from deepgcn_seg.training.schedules import (
    Clock,
    HalveByEpochs,
    HalveBySamples,
    WarmupCosine,
    set_norm_momentum,
    value_of,
)


def at(schedule, step, per_epoch=100, total=1000):
    return schedule(Clock(step, per_epoch, total))


def test_tensorflow_schedule_counts_8_samples_a_step_down_to_a_floor():
    schedule = HalveBySamples(samples=300_000, samples_per_step=8, floor=0.01)
    assert [at(schedule, step) for step in (0, 37_499, 37_500, 75_000)] == [1, 1, 0.5, 0.25]
    assert at(schedule, 10**7) == 0.01


def test_batch_norm_momentum_of_the_tensorflow_code():
    """decay = min(0.99, 1 - 0.5 * 0.5^n)"""
    momentum = HalveBySamples(samples=300_000, samples_per_step=8, floor=0.01, start=0.5)
    assert [1 - at(momentum, n * 37_500) for n in (0, 1, 2, 9)] == [0.5, 0.75, 0.875, 0.99]


def test_the_prediction_head_keeps_its_momentum():
    """The TensorFlow code sets bn_decay to None in build_mlp_pred_block, which is a decay of 0.9."""
    model = DeepGCN(depth=3, channels=8, k=4)
    set_norm_momentum(model, 0.5)
    norms = {name: part.momentum for name, part in model.named_modules() if isinstance(part, nn.BatchNorm1d)}
    assert norms == {name: 0.1 if name.startswith("head.") else 0.5 for name in norms}
    assert set(norms.values()) == {0.1, 0.5}


def test_pytorch_schedule_halves_every_20_epochs():
    assert [at(HalveByEpochs(20), epoch * 100) for epoch in (0, 19, 20, 99)] == [1, 1, 0.5, 0.5**4]


def test_warmup_and_cosine():
    schedule = WarmupCosine(warmup=0.1, floor=0.01)
    values = [at(schedule, step) for step in range(1000)]
    assert values[:100] == sorted(values[:100])
    assert values[100:] == sorted(values[100:], reverse=True)
    assert values[0] < 0.02
    assert max(values) == pytest.approx(1)
    assert values[-1] == pytest.approx(0.01, abs=1e-4)


@pytest.mark.parametrize(
    ("warmup", "factors"), [(0, [1 / 2, 1, 0.75, 0.25]), (0.5, [1 / 3, 2 / 3, 1, 0.5]), (1, [0.2, 0.4, 0.6, 0.8])]
)
def test_a_warm_up_of_any_share_of_four_steps(warmup, factors):
    assert [at(WarmupCosine(warmup), step, total=4) for step in range(4)] == pytest.approx(factors)


@pytest.mark.parametrize("value", [None, "0.1", float("nan"), [1.0]])
def test_a_schedule_of_ones_own_returns_a_number(value):
    class Mine:
        def __call__(self, clock):
            return value

    with pytest.raises(PartError, match=r"^recipe\.schedule: Mine returned .*; must return a finite number$"):
        value_of(Mine(), Clock(0, 100, 1000), "recipe.schedule")
