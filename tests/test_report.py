"""Reports of runs, against numbers worked out by hand."""

import json

import pytest
import yaml

from deepgcn_seg.errors import UserError
from deepgcn_seg.evaluation.runs import comparisons, find_runs, six_folds

CLASSES = ["a", "b"]


def make_run(root, name, confusion, fold=5, depth=7, protocol="rooms", finished=True, seed=0):
    folder = root / name
    (folder / ".hydra").mkdir(parents=True)
    settings = {
        "depth": depth,
        "seed": seed,
        "recipe": {"name": "paper"},
        "backbone": {"name": "resgcn"},
        "data": {"fold": fold, "root": str(folder)},
    }
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(settings))
    if finished:
        right = sum(confusion[i][i] for i in range(2)) / sum(map(sum, confusion))
        entry = {
            "data": "toy rooms",
            "protocol": protocol,
            "areas": [fold],
            "folds": [f"Area_{i}" for i in range(1, 7)],
            "classes": CLASSES,
            "confusion": confusion,
        }
        entry |= {"mIoU": 0.5 + depth / 100, "mAcc": 0.5, "OA": right}
        training = {"seconds": 90, "steps": 3, "peak_memory_mb": 512.0}
        (folder / "metrics.json").write_text(json.dumps({"test": entry, "parameters": 1234, "training": training}))
    return folder


SQUARE = [[3, 1], [1, 3]]


def test_six_folds_are_pooled_by_one_matrix(tmp_path):
    for fold in range(1, 7):
        make_run(tmp_path, f"f{fold}", [[90, 10], [0, 0]] if fold == 1 else [[1, 0], [4, 5]], fold)
    (table,) = six_folds(find_runs(tmp_path)[0])
    assert [row[0] for row in table.rows] == ["mIoU", "mAcc", "OA", "a", "b"]
    columns = dict(zip(table.header, zip(*table.rows)))
    # Summed: [[95, 10], [20, 25]]
    assert columns["six-fold, pooled"][0] == f"{100 * (95 / 125 + 25 / 55) / 2:.2f}"
    one, other = (0.9 + 0) / 2, (1 / 5 + 5 / 9) / 2
    assert columns["mean of areas"][0] == f"{100 * (one + 5 * other) / 6:.2f}"
    assert len(columns) == 9


def test_without_all_six_nothing_is_pooled_and_the_missing_are_named(tmp_path):
    for fold in (1, 2, 4, 5):
        make_run(tmp_path, f"f{fold}", SQUARE, fold)
    make_run(tmp_path, "f3", SQUARE, 3, finished=False)
    runs, unfinished = find_runs(tmp_path)
    assert [path.name for path in unfinished] == ["f3"]
    (table,) = six_folds(runs)
    assert not any("pooled" in name for name in table.header)
    assert "folds 3, 6 are missing" in " ".join(table.notes)


def test_what_varied_is_a_column_in_order_of_value(tmp_path):
    for depth in (28, 7, 14):
        make_run(tmp_path, f"d{depth}", SQUARE, depth=depth)
    (table,) = comparisons(find_runs(tmp_path)[0])
    assert table.header == ["depth", "mIoU", "mAcc", "OA", "parameters", "minutes", "peak MB", "points/s", "run"]
    assert [row[0] for row in table.rows] == ["7", "14", "28"]
    assert table.rows[0][1:7] == ["57.00", "50.00", "75.00", "1,234", "1.5", "512"]
    assert "| depth | mIoU |" in table.markdown()
    assert table.csv().splitlines()[0].startswith("depth,mIoU")
    assert "d28" in table.latex()
    assert table.terminal().row_count == 3


def test_protocols_never_share_a_table(tmp_path):
    make_run(tmp_path, "a", SQUARE, protocol="rooms")
    make_run(tmp_path, "b", SQUARE, protocol="blocks")
    tables = comparisons(find_runs(tmp_path)[0])
    assert len(tables) == 2
    assert all(len(table.rows) == 1 for table in tables)


def test_seeds_are_averaged(tmp_path):
    for seed, depth in ((0, 7), (1, 7), (0, 14), (1, 14)):
        folder = make_run(tmp_path, f"s{seed}d{depth}", SQUARE, depth=depth, seed=seed)
        path = folder / "metrics.json"
        content = json.loads(path.read_text())
        content["test"]["mIoU"] += 0.02 * seed
        path.write_text(json.dumps(content))
    _, table = comparisons(find_runs(tmp_path)[0])
    assert table.header == ["depth", "seeds", "mIoU", "mAcc", "OA"]
    # 57 and 59: mean 58, standard deviation the square root of 2.
    assert table.rows[0][:3] == ["7", "2", "58.00 +- 1.41"]


def test_no_runs_and_damaged_runs(tmp_path):
    with pytest.raises(UserError, match="no run directories"):
        find_runs(tmp_path)
    folder = make_run(tmp_path, "a", SQUARE)
    (folder / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json"):
        find_runs(tmp_path)


def test_curves_are_drawn_from_what_runs_wrote(tmp_path):
    from deepgcn_seg.evaluation.curves import draw_curves, scalar, smoothed
    from deepgcn_seg.training.tensorboard import RunLog

    for depth in (7, 14):
        log = RunLog(make_run(tmp_path, f"d{depth}", SQUARE, depth=depth))
        for step in range(1, 21):
            log.step(step, loss=depth + step, lr=0.1, points_per_second=1)
        log.close()
    runs, _ = find_runs(tmp_path)
    steps, values = scalar(tmp_path / "d7", "train/loss")
    assert steps.tolist() == list(range(1, 21))
    assert values[0] == 8
    # The last two of twenty: 26 and 27 for depth 7.
    assert draw_curves(runs, tmp_path / "loss.png") == {"d7": 26.5, "d14": 33.5}
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert smoothed(values, 0.5)[:2].tolist() == [8, 8.5]
