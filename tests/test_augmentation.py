"""Augmentations keep what they must keep and change what they say."""

from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest

from deepgcn_seg.data.augmentation import BlockPoints, ColorContrast, ColorDrop, Jitter, Mirror, Scale, Turn, turned
from deepgcn_seg.data.blocks import block_features
from deepgcn_seg.data.dataset import BlockDataset, make_loader
from deepgcn_seg.errors import UserError

SIZE = np.array([4.0, 3.0, 2.5])


def points(count=200, seed=0):
    rng = np.random.default_rng(seed)
    xyz = (rng.uniform(0, 1, (count, 3)) * [1, 1, 2.5] + [2, 1, 0]).astype(np.float32)
    return BlockPoints(xyz, rng.integers(40, 200, (count, 3)).astype(np.float32), SIZE)


def distances(p):
    return np.linalg.norm(p.xyz[:, None] - p.xyz[None], axis=-1)


def test_a_quarter_turn_by_hand():
    p = BlockPoints(np.array([[1.0, 0.5, 2.0]], np.float32), np.zeros((1, 3), np.float32), SIZE)
    found = turned(p, np.pi / 2)
    # (x, y) -> (-y, x), then the room of 4 x 3 lies from -3 to 0 and is moved to 0.
    assert np.allclose(found.xyz, [[2.5, 1.0, 2.0]], atol=1e-6)
    assert np.allclose(found.room_size, [3.0, 4.0, 2.5])


@pytest.mark.parametrize("augment", [Turn(), Turn(0), Turn(45), Mirror(1.0)], ids=str)
def test_rigid_motions_keep_distances_heights_and_the_room(augment):
    before = points()
    for seed in range(5):
        after = augment(before, np.random.default_rng(seed))
        assert np.allclose(distances(after), distances(before), atol=1e-4)
        assert np.array_equal(after.xyz[:, 2], before.xyz[:, 2])
        assert after.xyz[:, :2].min() >= -1e-5
        assert (after.xyz[:, :2] <= after.room_size[:2] + 1e-5).all()
        assert np.array_equal(after.rgb, before.rgb)


def test_four_quarter_turns_are_none():
    p = points()
    again = p
    for _ in range(4):
        again = turned(again, np.pi / 2)
    assert np.allclose(again.xyz, p.xyz, atol=1e-5)
    assert np.allclose(again.room_size, SIZE)


def test_a_turned_block_has_the_channels_of_the_turned_room():
    p = turned(points(), np.pi / 2)
    features = block_features(p.xyz, p.rgb, p.room_size)
    assert np.abs(features[:, :2]).max() <= 0.51
    assert features[:, 6:].min() >= -1e-6 and features[:, 6:].max() <= 1 + 1e-6


@pytest.mark.parametrize(("step", "directions"), [(90, 4), (120, 3), (180, 2), (0, 40)])
def test_turns_are_all_directions(step, directions):
    p = points(1)
    seen = {tuple(np.round(Turn(step)(p, np.random.default_rng(seed)).xyz[0], 5)) for seed in range(40)}
    assert len(seen) == directions


def test_scale_keeps_the_position_in_the_room():
    before, after = points(), Scale(0.5, 0.6)(points(), np.random.default_rng(0))
    assert 0.5 <= np.linalg.norm(after.xyz) / np.linalg.norm(before.xyz) <= 0.6
    old, new = (block_features(p.xyz, p.rgb, p.room_size) for p in (before, after))
    assert np.allclose(old[:, 6:], new[:, 6:], atol=1e-6)


def test_jitter_is_small_and_clipped():
    moved = Jitter(0.01, 0.015)(points(5000), np.random.default_rng(0)).xyz - points(5000).xyz
    assert np.abs(moved).max() <= 0.0151
    assert 0.007 < moved.std() < 0.01


@pytest.mark.parametrize("augment", [ColorDrop, ColorContrast, Mirror])
def test_chance(augment):
    p = points()
    assert augment(0.0)(p, np.random.default_rng(0)) is p
    changed = [augment(0.5)(p, np.random.default_rng(seed)) is not p for seed in range(200)]
    assert 70 < sum(changed) < 130


def test_dropped_colours_are_black_and_contrast_stays_in_range():
    assert not ColorDrop(1.0)(points(), np.random.default_rng(0)).rgb.any()
    before = points().rgb
    after = ColorContrast(1.0)(points(), np.random.default_rng(0)).rgb
    assert after.min() >= -1e-3 and after.max() <= 255.001
    assert (np.ptp(after, axis=0) > np.ptp(before, axis=0)).all()
    order = np.argsort(before[:, 0], kind="stable")
    assert (np.diff(after[order, 0]) >= -1e-3).all()


@pytest.mark.parametrize(
    ("part", "expected"), [(0, [40, 60, 80]), (0.5, [20, 93.75, 167.5]), (0.75, [10, 110.625, 211.25])]
)
def test_contrast_by_hand(part, expected):
    """Red takes the whole range, green is the same everywhere, and blue spans less than one value."""
    rgb = np.array([[40, 9, 7.0], [60, 9, 7.5], [80, 9, 7.5]], np.float32)
    after = ColorContrast(1.0)(BlockPoints(rgb, rgb, SIZE), SimpleNamespace(random=lambda: part)).rgb
    assert np.allclose(after[:, 0], expected)
    assert np.allclose(after[:, 1], 9 * (1 - part))
    assert np.allclose(after[:, 2], (1 - part) * rgb[:, 2] + part * np.array([0, 127.5, 127.5]))


def test_augmented_blocks_depend_on_seed_epoch_and_index_alone(store):
    dataset = BlockDataset(store, store.rooms[:1], 64, augment=[Turn(), Jitter(), ColorDrop(0.5)])
    plain = BlockDataset(store, store.rooms[:1], 64)
    first, again = dataset[(3, 0)], dataset[(3, 0)]
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[0], dataset[(4, 0)][0])
    # The same points, and so the same labels, as without.
    assert np.array_equal(first[1], plain[(3, 0)][1])
    assert not np.array_equal(first[0], plain[(3, 0)][0])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_augmentation_of_ones_own_that_returns_nothing_is_named(store, workers):
    def unfinished(points, rng):
        pass

    dataset = BlockDataset(store, store.rooms[:1], 64, augment=[Turn(), unfinished])
    with closing(make_loader(dataset, 1, workers=workers)) as loader, pytest.raises(UserError) as raised:
        next(iter(loader))
    assert str(raised.value) == "recipe.augmentation: unfinished returned NoneType; must return BlockPoints"
