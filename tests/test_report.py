"""Reports of runs, against numbers worked out by hand."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
import zlib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console

from deepgcn_seg.commands.report import report
from deepgcn_seg.data.classes import ClassList
from deepgcn_seg.data.room import RoomEntry
from deepgcn_seg.errors import UserError
from deepgcn_seg.evaluation.metrics import Scores
from deepgcn_seg.evaluation.protocols import Protocol, Result
from deepgcn_seg.evaluation.scores import summary
from deepgcn_seg.model import DeepGCN
from deepgcn_seg.model.summary import summarize
from deepgcn_seg.palette import print_colors
from deepgcn_seg.reporting.cost import cost_table
from deepgcn_seg.reporting.figures import draw_confusion, draw_scores, line_styles
from deepgcn_seg.reporting.naming import labels
from deepgcn_seg.reporting.reading import LeftOut
from deepgcn_seg.reporting.result_table import Column, Interval, ResultTable, Spread
from deepgcn_seg.reporting.results import comparable
from deepgcn_seg.reporting.runs import find_runs
from deepgcn_seg.reporting.six_folds import six_folds
from deepgcn_seg.reporting.tables import class_tables, comparisons, published_tables
from deepgcn_seg.settings import three_digits

CLASSES = ["a", "b"]


def scores_of(confusion, classes=CLASSES):
    """What metrics.json has of a confusion matrix."""
    scores = Scores.of(torch.tensor(confusion)).as_dict(classes)
    return {"classes": classes, "confusion": confusion, "points": sum(map(sum, confusion)), **scores}


def room_of(points, right=None):
    """A room of so many points of the first class, of which some are right and the others labelled as the second."""
    right = points if right is None else right
    scores = Scores.of(torch.tensor([[right, points - right], [0, 0]])).as_dict(CLASSES)
    counts = {"hits": [right, 0], "truth": [points, 0], "predicted": [right, points - right]}
    return {"points": points, "mIoU": scores["mIoU"], "OA": scores["OA"], **counts}


def scoring(miou):
    """A confusion matrix with 1260 points of each class, and just this mIoU in percent."""
    hits, rest = divmod(2520 * miou, 100 + miou)
    assert rest == 0, f"{miou} % is no such mIoU; 20, 25, 40, 50, 60, 68, 75 and 80 % are"
    return [[hits, 1260 - hits], [1260 - hits, hits]]


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
        entry = {
            "data": "toy rooms",
            "protocol": protocol,
            "areas": [fold],
            "folds": [f"Area_{i}" for i in range(1, 7)],
            **scores_of(confusion),
        }
        training = {"seconds": 90, "steps": 3, "peak_memory_mb": 512.0}
        (folder / "metrics.json").write_text(json.dumps({"test": entry, "parameters": 1234, "training": training}))
    return folder


SQUARE = [[3, 1], [1, 3]]


def test_six_folds_are_pooled_by_one_matrix(tmp_path):
    for fold in range(1, 7):
        make_run(tmp_path, f"f{fold}", [[90, 10], [0, 0]] if fold == 1 else [[1, 0], [4, 5]], fold)
    (table,) = six_folds(find_runs(tmp_path, LeftOut())[0])
    assert [row[0] for row in table.rows] == ["mIoU", "mAcc", "OA", "a", "b"]
    columns = dict(zip(table.header, zip(*table.rows)))
    # Summed: [[95, 10], [20, 25]]
    assert columns["six-fold, pooled"][0] == f"{100 * (95 / 125 + 25 / 55) / 2:.2f}"
    one, other = (0.9 + 0) / 2, (1 / 5 + 5 / 9) / 2
    assert columns["mean of areas"][0] == f"{100 * (one + 5 * other) / 6:.2f}"
    assert len(columns) == 9


def test_intervals_stand_beside_the_scores(tmp_path):
    folders = [make_run(tmp_path, f"f{fold}", [[150, 150], [0, 0]], fold) for fold in range(1, 7)]
    runs = lambda: find_runs(tmp_path, LeftOut())[0]
    assert "95 % interval" not in comparisons(runs())[0].header
    for folder in folders:
        # Three rooms of 100 points of the first class, of which 60, 50 and 40 are right: the mIoU of two is 22.5, 25 or
        # 27.5, so that the standard error is 2.89, and t is 4.30. Earlier versions wrote another interval.
        rooms = {f"room_{right}": room_of(100, right) for right in (60, 50, 40)}
        changed(rooms=rooms, mIoU_interval=[0.2, 0.3])(folder)
    (table,) = comparisons(runs())
    columns = dict(zip(table.header, zip(*table.rows)))
    assert columns["95 % interval"] == ("12.58 to 37.42",) * 6
    (folds,) = six_folds(runs())
    # Eighteen rooms: a standard error of 0.99, and t is 2.11.
    assert "95 % interval of the pooled mIoU, over all rooms: 22.91 to 27.09." in folds.notes
    changed(rooms={"room_60": {"points": 300, "mIoU": 0.5, "OA": 0.5}})(folders[0])
    (folds,) = six_folds(runs())
    assert not any("interval" in note for note in folds.notes)


def test_without_all_six_nothing_is_pooled_and_the_missing_are_named(tmp_path):
    for fold in (1, 2, 4, 5):
        make_run(tmp_path, f"f{fold}", SQUARE, fold)
    make_run(tmp_path, "f3", SQUARE, 3, finished=False)
    runs, unfinished = find_runs(tmp_path, LeftOut())
    assert [path.name for path in unfinished] == ["f3"]
    (table,) = six_folds(runs)
    assert not any("pooled" in name for name in table.header)
    assert "folds 3, 6 are missing" in " ".join(table.notes)


def test_what_varied_is_a_column_in_order_of_value(tmp_path):
    for depth in (28, 7, 14):
        make_run(tmp_path, f"d{depth}", SQUARE, depth=depth)
    (table,) = comparisons(find_runs(tmp_path, LeftOut())[0])
    assert table.header == ["depth", "mIoU", "mAcc", "OA", "parameters", "minutes", "peak MB", "points/s", "run"]
    assert [row[0] for row in table.rows] == ["7", "14", "28"]
    assert table.rows[0][1:7] == ["60.00", "75.00", "75.00", "1,234", "1.50", "512"]
    assert "| depth | mIoU (%) |" in table.markdown()
    assert table.csv().splitlines()[0].startswith("depth,mIoU")
    assert "d28" in table.latex()
    assert table.terminal().row_count == 3


def test_protocols_never_share_a_table(tmp_path):
    make_run(tmp_path, "a", SQUARE, protocol="rooms")
    make_run(tmp_path, "b", SQUARE, protocol="blocks")
    tables = comparisons(find_runs(tmp_path, LeftOut())[0])
    assert len(tables) == 2
    assert all(len(table.rows) == 1 for table in tables)


def test_seeds_are_averaged(tmp_path):
    for seed, depth in ((0, 7), (1, 7), (0, 14), (1, 14)):
        make_run(tmp_path, f"s{seed}d{depth}", scoring(80 if seed else 60), depth=depth, seed=seed)
    _, table = comparisons(find_runs(tmp_path, LeftOut())[0])
    assert table.header == ["depth", "seeds", "mIoU", "mAcc", "OA"]
    # 60 and 80: mean 70, standard deviation 20 / sqrt(2).
    assert table.rows[0][:3] == ["7", "2", "70.00 +- 14.14"]


@pytest.mark.parametrize("fold", [5, 6])
def test_the_best_scores_are_bold_if_all_are_of_one_area(tmp_path, fold):
    for name, depth, area, miou in (("a", 7, 5, 60), ("b", 14, fold, 80)):
        for seed in (0, 1):
            make_run(tmp_path, f"{name}{seed}", scoring(miou), area, depth, seed=seed)
    runs, means = comparisons(find_runs(tmp_path, LeftOut())[0])
    for table, best in ((runs, r"\textbf{80.00}"), (means, r"\textbf{80.00 $\pm$ 0.00}")):
        assert (best in table.latex()) == (r"\textbf" in table.latex()) == (fold == 5)


def test_every_table_of_scores_says_how_checkpoints_were_chosen(tmp_path):
    for area, seed, chosen in ((1, 0, "last"), (1, 1, "best on test rooms"), (2, 0, ""), (2, 1, "last")):
        folder = make_run(tmp_path, f"{area}{seed}", SQUARE, fold=area, seed=seed)
        changed(selection=chosen, folds=["Area_1", "Area_2"])(folder)
    runs = find_runs(tmp_path, LeftOut())[0]
    both, last = "Checkpoint: best on test rooms, last.", "Checkpoint: last."
    (first, second), tables = six_folds(runs), [*comparisons(runs), *class_tables(runs)]
    assert len(tables) == 3 and last in first.notes and both in second.notes
    assert all(both in table.notes for table in tables)


def test_no_runs(tmp_path):
    with pytest.raises(UserError, match="no run directories"):
        find_runs(tmp_path, LeftOut())


def changed(**test):
    """``metrics.json`` with other values in its test part."""

    def change(folder):
        path = folder / "metrics.json"
        content = json.loads(path.read_text())
        content["test"] |= test
        path.write_text(json.dumps(content))

    return change


def scored(confusion, classes=CLASSES):
    """``metrics.json`` with another confusion matrix, and the scores that follow from it."""
    return changed(**scores_of(confusion, classes))


def written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def linked(name, to="/etc/passwd"):
    def link(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(to)

    return link


def png(width, height):
    """A picture of that size, as its header says."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + check

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def two_runs(root):
    """A sound run and one to be damaged, each with a picture."""
    for name, depth in (("sound", 7), ("odd", 14)):
        folder = make_run(root, name, SQUARE, depth=depth)
        changed(pictures={"room.png": "Area_5/office_1"})(folder)
        Image.new("RGB", (20, 10)).save(folder / "room.png")
        (folder / "run.json").write_text('{"command": "python tools/train.py"}')
    return root / "odd"


def reported(root):
    report(OmegaConf.create({"runs": str(root), "output": None}))
    return (root / "report.md").read_text(), (root / "report.html").read_text()


WHOLE = [
    ("config.yaml: not a readable YAML file", written(".hydra/config.yaml", b"recipe: {name: paper}\ndata: {fold")),
    ("config.yaml: must be a mapping", written(".hydra/config.yaml", b"[1, 2]")),
    (
        "config.yaml: not a readable YAML file (line 1: could not det",
        written(".hydra/config.yaml", b"recipe: !!python/name:os.system {}"),
    ),
    ("aliases", written(".hydra/config.yaml", b"recipe: &a {name: 1}\ndata: *a")),
    ("config.yaml: is not UTF-8 text; save it as UTF-8", written(".hydra/config.yaml", b"recipe: \xff")),
    ("2001 settings", written(".hydra/config.yaml", b"recipe: 1\n" + b"".join(b"a%d: 1\n" % i for i in range(2000)))),
    ("config.yaml: is a link", linked(".hydra/config.yaml")),
    ("metrics.json: not a readable JSON file", written("metrics.json", b"{")),
    ("metrics.json: test is missing", written("metrics.json", b"{}")),
    ("must be a mapping", written("metrics.json", b"[]")),
    ("not a readable JSON file (NaN", changed(mIoU=float("nan"))),
    ("test.mIoU=1.5", changed(mIoU=1.5)),
    ("test.OA='0.5'", changed(OA="0.5")),
    ("test.confusion.0.0=-1", changed(confusion=[[-1, 1], [1, 1]])),
    ("test.confusion.0.0=0.5", changed(confusion=[[0.5, 1], [1, 1]])),
    ("a row and a column for each of 2 classes", changed(confusion=[[1, 1], [1]])),
    ("a row and a column for each of 3 classes", changed(classes=["a", "b", "c"])),
    ("test.confusion.0.0=1000", changed(confusion=[[10**30, 1], [1, 1]])),
    ("more than 9007199254740992 points", changed(confusion=[[2**53, 2**53], [1, 1]])),
    ("test.classes", changed(classes=[])),
    ("test.rooms.x.points", changed(rooms={"x": {"points": True, "mIoU": None, "OA": None}})),
    ("must be of as many classes", changed(rooms={"x": {"points": 1, "mIoU": None, "OA": None, "hits": [1, 0]}})),
    ("must be of each of 2 classes", changed(rooms={"x": {**room_of(8), "hits": [8], "truth": [8], "predicted": [8]}})),
    (
        "more hits than true or predicted",
        changed(
            rooms={
                "x": {"points": 1, "mIoU": None, "OA": None, "hits": [9, 0], "truth": [9, 0], "predicted": [8, 1]},
            }
        ),
    ),
    ("test.points_per_second", changed(points_per_second=-3)),
    ("metrics.json: is a link", linked("metrics.json")),
]
PARTS = [
    ("run.json: not a readable JSON file", written("run.json", b"{")),
    ("run.json: must be a mapping", written("run.json", b"[1]")),
    ("run.json: is a link", linked("run.json")),
    ("room.png: not a readable picture", written("room.png", b"\x89PNG\r\n\x1a\n123")),
    ("room.png: not a readable picture", written("room.png", png(100_000, 100_000))),
    ("room.png: 9000 x 9000 is more than", written("room.png", png(9000, 9000))),
    ("room.png: not a readable picture", written("room.png", png(100, 100))),
    ("room.png: is a link", linked("room.png")),
    ("room.png: is a link", linked("room.png", "../sound/room.png")),
    ("room.png: no such file", lambda folder: [(folder / "room.png").unlink(), os.mkfifo(folder / "room.png")]),
    ("or outside the run", changed(pictures={"/etc/passwd": "x"})),
    ("or outside the run", changed(pictures={"../sound/room.png": "x"})),
    ("history.csv: is a link", linked("history.csv")),
    ("history.csv: no such file", lambda folder: os.mkfifo(folder / "history.csv")),
    ("history.csv: larger than 4 MiB", written("history.csv", b"step\n" * 2**20)),
    ("history.csv: not the history of a training", written("history.csv", b"\xff\x00,\n")),
    ("history.csv: not the history of a training", written("history.csv", b"step,epoch\n1,nan\n")),
    ("tfevents.1: is a link", linked("events.out.tfevents.1")),
    ("its TensorBoard events hold no scalars", written("events.out.tfevents.1", b"garbage" * 9)),
    (
        "TensorBoard events are larger than 64 MiB",
        lambda folder: [
            (folder / f"events.out.tfevents.{n}").touch() or os.truncate(folder / f"events.out.tfevents.{n}", 2**25 + 1)
            for n in (1, 2)
        ],
    ),
    ("tfevents.1: no such file", lambda folder: os.mkfifo(folder / "events.out.tfevents.1")),
]


@pytest.mark.parametrize(
    ("why", "damage"), WHOLE + PARTS, ids=[f"{i} {why}" for i, (why, _) in enumerate(WHOLE + PARTS)]
)
def test_a_damaged_run_is_left_out_and_the_others_are_reported(tmp_path, caplog, monkeypatch, why, damage):
    # The other formats are of the same figures, and take most of a report's time.
    monkeypatch.setattr("deepgcn_seg.reporting.figures.FORMATS", (".png",))
    damage(two_runs(tmp_path))
    text, page = reported(tmp_path)
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("deepgcn_seg")]
    assert told.startswith(f"left out: {tmp_path}/odd")
    assert why in told
    assert "Left out:" in text
    assert "<h2>Left out</h2>" in page
    rows = [line for line in text.splitlines() if line.startswith("|") and line.endswith(("| sound |", "| odd |"))]
    assert len(rows) == (1 if (why, damage) in WHOLE else 2)
    assert page.count("data:image/jpeg") == (
        1 if "odd/r" not in told and (why, damage) in WHOLE else page.count("jpeg")
    )


def test_rooms_lead_to_their_pages(tmp_path):
    folder = make_run(tmp_path, "a: 50% <b>", SQUARE)
    pages = {"room.html": "Area_5/good", "worst_room_1.html": "Area_5/<bad>", "gone.html": "Area_5/gone"}
    rooms = {"Area_5/good": room_of(10, 9), "Area_5/<bad>": room_of(10, 1), "Area_5/gone": room_of(10, 2)}
    scored([[12, 18], [0, 0]])(folder)
    changed(pages=pages, rooms=rooms)(folder)
    for name in ("room.html", "worst_room_1.html"):
        (folder / name).write_text("a page")
    page = reported(tmp_path)[1]
    good, bad = (f'<a href="./a%3A%2050%25%20%3Cb%3E/{name}">' for name in ("room.html", "worst_room_1.html"))
    # Above the runs, the worst room first; and in the table of the worst rooms.
    assert f"{bad}Area_5/&lt;bad&gt;</a>, {good}Area_5/good</a></li>" in page
    assert page.count(bad) == page.count(good) == 2 and "gone.html" not in page


@pytest.mark.parametrize("name", ["../b/room.html", "/etc/passwd", "link.html"])
def test_no_page_outside_of_the_run_is_linked(tmp_path, name):
    folder, other = make_run(tmp_path, "a", SQUARE), make_run(tmp_path, "b", SQUARE)
    (other / "room.html").write_text("a page")
    (folder / "link.html").symlink_to(other / "room.html")
    changed(pages={name: "Area_5/x"})(folder)
    text, page = reported(tmp_path)
    assert "or outside the run" in text and "<a href" not in page


def test_events_that_cannot_be_read_leave_out_a_curve(tmp_path):
    from deepgcn_seg.reporting.figures import draw_curves
    from deepgcn_seg.training.tensorboard import RunLog

    folder = two_runs(tmp_path)
    for name in ("sound", "odd"):
        log = RunLog(tmp_path / name)
        for step in range(1, 21):
            log.step(step, loss=float("inf") if step == 3 else step, lr=0.1, points_per_second=1)
        log.close()
    (file,) = folder.glob("*tfevents*")
    content = file.read_bytes()
    # A record of 2^40 bytes, as its header and the header's checksum say.
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    header = (2**40).to_bytes(8, "little")
    file.write_bytes(content[:200] + header + masked_crc32c(header).to_bytes(4, "little") + content[200:])
    left_out = LeftOut()
    runs, _ = find_runs(tmp_path, left_out)
    drawn = draw_curves(runs, tmp_path / "loss.png", left_out)
    # The last two of nineteen finite values are 19 and 20, a tenth is one.
    assert drawn["sound"] == 20


def test_only_damaged_runs_are_an_error(tmp_path):
    folder = make_run(tmp_path, "a", SQUARE)
    (folder / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"none of the runs below it can be read; the first: .*metrics\.json"):
        find_runs(tmp_path, LeftOut())


def test_settings_are_not_composed(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "told")
    for name, value in (("a", "${oc.env:SECRET}"), ("b", "${depth}")):
        folder = make_run(tmp_path, name, SQUARE)
        config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
        (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config | {"note": value}))
    text, page = reported(tmp_path)
    assert "told" not in text + page
    assert "${oc.env:SECRET}" in page


def test_runs_of_other_classes_are_not_pooled(tmp_path):
    for fold in (1, 2):
        folder = make_run(tmp_path, f"f{fold}", SQUARE, fold=fold)
    scored([[1, 0, 0]] * 3, ["a", "b", "c"])(folder)
    assert six_folds(find_runs(tmp_path, LeftOut())[0]) == []


# Brackets, braces, dollars and line breaks: markup of the terminal, LaTeX, figures, Markdown and HTML.
ODD = "=[/x] [red]$a_b^{c$ \\input{x}\n\\input{/etc/passwd} a|b <script>alert(1)</script> \x1b[2J"


def test_names_are_shown_as_they_are_in_every_form(tmp_path, capsys):
    folder = two_runs(tmp_path)
    room = {"points": 8, "mIoU": None, "OA": None}
    scored(SQUARE, ["a", ODD])(folder)
    changed(data=ODD, protocol=ODD, folds=[ODD], selection=ODD, rooms={ODD: room})(folder)
    config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config | {"note": ODD, ODD: 1}))
    (folder / "run.json").write_text(json.dumps({ODD: ODD, "versions": {ODD: [ODD]}}))
    folder.rename(tmp_path / "[x] $_{<b>")
    text, page = reported(tmp_path)
    tex = (tmp_path / "report.tex").read_text()
    cells = (tmp_path / "report.csv").read_text()
    for form in (text, page, tex, cells, capsys.readouterr().out):
        assert "\x1b" not in form
        assert not any(line.startswith(("\\input", "=")) for line in form.splitlines())
    assert "<script>alert" not in text + page
    assert "\\input{" not in tex
    assert "a|b" not in text
    assert "$a_b" not in tex


@pytest.mark.parametrize("sound", [True, False])
def test_the_command_goes_on_without_a_damaged_run(tmp_path, sound):
    folder = two_runs(tmp_path / "runs")
    (folder / "metrics.json").write_text("{")
    if not sound:
        (tmp_path / "runs" / "sound" / "metrics.json").write_text("{")
    tool = Path(__file__).parent.parent / "tools" / "report.py"
    command = [sys.executable, str(tool), f"runs={tmp_path / 'runs'}", f"hydra.run.dir={tmp_path / 'out'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == (0 if sound else 2), done.stderr
    assert f"left out: {folder / 'metrics.json'}: not a readable JSON file" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "runs" / "report.html").is_file() == sound


def test_curves_are_drawn_from_what_runs_wrote(tmp_path):
    from deepgcn_seg.reporting.figures import draw_curves, smoothed
    from deepgcn_seg.reporting.reading import read_curve
    from deepgcn_seg.training.tensorboard import RunLog

    for depth in (7, 14):
        log = RunLog(make_run(tmp_path, f"d{depth}", SQUARE, depth=depth))
        for step in range(1, 21):
            log.step(step, loss=depth + step, lr=0.1, points_per_second=1)
        log.close()
    runs, _ = find_runs(tmp_path, LeftOut())
    steps, values = read_curve(tmp_path / "d7", "train_loss")
    assert not len(read_curve(tmp_path / "d7", "mIoU")[0])
    assert steps.tolist() == list(range(1, 21))
    assert values[0] == 8
    # The last two of twenty: 26 and 27 for depth 7.
    assert draw_curves(runs, tmp_path / "loss.png", LeftOut()) == {"d7": 26.5, "d14": 33.5}
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert smoothed(values, 0.5)[:2].tolist() == [8, 8.5]


def test_curves_come_from_the_history_where_there_is_one_and_old_tags_are_read(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    from deepgcn_seg.reporting.reading import read_curve

    old, new = (make_run(tmp_path, name, SQUARE) for name in ("old", "new"))
    for folder in (old, new):
        with SummaryWriter(str(folder)) as events:
            for step in (1, 2, 3):
                events.add_scalar("train/loss", 5 - step, step)
                events.add_scalar("validation/mIoU", step / 8, step)
    (new / "history.csv").write_text(
        "step,epoch,learning_rate,train_loss,validation_loss,mIoU,mAcc,OA,IoU/a,IoU/b,seconds,peak_memory_mb\n"
        "10,1,0.1,1.5,,,,,,,3,100\n20,2,0.1,1.25,1.75,0.5,0.5,0.5,,0.5,6,100\n"
    )
    curves = lambda folder, column: [values.tolist() for values in read_curve(folder, column)]
    assert curves(old, "train_loss") == [[1, 2, 3], [4, 3, 2]]
    assert curves(old, "mIoU") == [[1, 2, 3], [0.125, 0.25, 0.375]]
    assert curves(old, "validation_loss") == [[], []]
    assert curves(new, "train_loss") == [[10, 20], [1.5, 1.25]]
    assert curves(new, "validation_loss") == [[20], [1.75]]
    assert curves(new, "mIoU") == [[20], [0.5]]
    (new / "history.csv").write_text("step\n1\n")
    with pytest.raises(UserError, match=r"history\.csv: not the history of a training"):
        read_curve(new, "mIoU")


# -- names, tables and figures for print ------------------------------------------------------------------------------


def described(folder, **settings):
    """Give a run further settings: ``k=8``, ``backbone={...}``, ``model={...}``."""
    path = folder / ".hydra" / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))
    return folder


NETWORK = {"_target_": "deepgcn_seg.DeepGCN", "connection": "${backbone.connection}", "depth": "${depth}", "k": "${k}"}
NETWORK |= {"channels": 16, "num_classes": 2, "conv": "${conv}", "fusion_channels": 32, "head_channels": [16, 8]}


def network_run(root, name, kind="res", depth=28, k=16, confusion=((3, 1), (1, 3)), **about):
    folder = make_run(root, name, [list(row) for row in confusion], depth=depth, **about)
    conv = {"_target_": "deepgcn_seg.model.EdgeConv", "_partial_": True}
    backbone = {"name": f"{kind}gcn", "connection": kind}
    return described(folder, backbone=backbone, k=k, conv=conv, points=4096, model=NETWORK)


def names(root):
    runs, _ = find_runs(root, LeftOut())
    return {run.name: label for run, label in zip(runs, labels(runs))}


def test_networks_are_named_as_in_the_paper_whatever_their_folders_are_called(tmp_path):
    network_run(tmp_path, "0_resgcn28")
    network_run(tmp_path, "1_resgcn28", k=8)
    network_run(tmp_path, "best", kind="dense", depth=7, seed=1)
    network_run(tmp_path, "plaingcn56", kind="dense", depth=7, fold=1)
    expected = {"0_resgcn28": "ResGCN-28, k 16", "1_resgcn28": "ResGCN-28, k 8"}
    assert names(tmp_path) == expected | dict.fromkeys(["best", "plaingcn56"], "DenseGCN-7, k 16")


def test_a_run_without_a_readable_network_is_named_by_its_backbone(tmp_path):
    make_run(tmp_path, "old", SQUARE)
    described(make_run(tmp_path, "own", SQUARE), model={"_target_": "mine.nets.TinyNet", "width": 3})
    assert names(tmp_path) == {"old": "ResGCN-7", "own": "TinyNet-7"}


def test_settings_that_older_versions_had_not_do_not_tell_runs_apart(tmp_path):
    make_run(tmp_path, "old", SQUARE)
    new = make_run(tmp_path, "new", SQUARE, seed=1)
    described(new, recipe={"name": "paper", "loss": "cross_entropy", "class_weights": "none"}, freeze=[], weights=None)
    other = make_run(tmp_path, "other", SQUARE)
    described(other, recipe={"name": "paper", "loss": {"cross_entropy": 1, "lovasz": 0.5}})
    assert names(tmp_path) == {
        "old": "ResGCN-7",
        "new": "ResGCN-7",
        "other": "ResGCN-7, loss cross_entropy:1+lovasz:0.5",
    }


def test_what_most_runs_of_a_recipe_have_is_not_repeated(tmp_path):
    turn = {"_target_": "deepgcn_seg.data.augmentation.Turn", "step": 90}
    for name, augmentation in (("a", [turn]), ("b", [turn]), ("c", [turn]), ("d", []), ("e", [{**turn, "step": 45}])):
        folder = make_run(tmp_path, name, SQUARE, seed=ord(name))
        described(folder, recipe={"name": "modern", "augmentation": augmentation})
    found = names(tmp_path)
    assert found == dict.fromkeys("abc", "ResGCN-7") | {
        "d": "ResGCN-7, augmentation none",
        "e": "ResGCN-7, augmentation Turn step:45",
    }


def test_experiments_that_differ_in_what_a_label_cuts_off_have_numbers(tmp_path):
    for name in ("a", "b"):
        described(make_run(tmp_path, name, SQUARE), note="x" * 100 + name)
    assert sorted(label[-4:] for label in names(tmp_path).values()) == [". #1", ". #2"]


JITTER = {"_target_": "deepgcn_seg.data.augmentation.Jitter", "sigma": 0.02}


@pytest.mark.parametrize(
    "other",
    [
        # A user's own class may have the name of one of this package, and one value may be that of another argument.
        {"recipe": {"name": "paper", "augmentation": [{**JITTER, "_target_": "mine.Jitter"}]}},
        {"recipe": {"name": "paper", "augmentation": [{"_target_": JITTER["_target_"], "clip": 0.02}]}},
        {"note": "x" * 1000 + "y"},
    ],
    ids=["class", "argument", "long"],
)
def test_means_are_over_seeds_alone(tmp_path, other):
    same = {"recipe": {"name": "paper", "augmentation": [JITTER]}, "note": "x" * 1000}
    for seed, settings in enumerate((same, same, same | other)):
        described(make_run(tmp_path, f"{seed}", SQUARE, seed=seed), **settings)
    (table,) = class_tables(find_runs(tmp_path, LeftOut())[0])
    assert sorted(row[1] for row in table.rows) == ["1", "2"]


def test_scores_of_classes_are_means_over_seeds_and_the_best_are_bold(tmp_path):
    # IoU of a and b: 60 and 60; 100 and 100: mean 80, deviation 20 sqrt(2).
    network_run(tmp_path, "a0", confusion=((3, 1), (1, 3)))
    network_run(tmp_path, "a1", confusion=((4, 0), (0, 4)), seed=1)
    network_run(tmp_path, "b", k=8, confusion=((2, 2), (0, 4)))
    (table,) = class_tables(find_runs(tmp_path, LeftOut())[0])
    assert table.header == ["network", "seeds", "mIoU", "mAcc", "OA", "a", "b"]
    # Ordered by name, with numbers as numbers.
    assert [row[0] for row in table.rows] == ["ResGCN-28, k 8", "ResGCN-28, k 16"]
    assert table.rows[1][5:] == ["80.00", "80.00"]
    assert table.rows[0][5:] == ["50.00", "66.67"]
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert float(rows[1]["a mean (%)"]) == pytest.approx(80, abs=1e-12)
    assert float(rows[1]["a deviation (%)"]) == pytest.approx(20 * 2**0.5, abs=1e-12)
    assert rows[0]["a deviation (%)"] == ""
    assert float(rows[0]["b mean (%)"]) == 100 * (2 / 3)
    tex = table.latex()
    assert r"\textbf{80.00}" in tex and r"\textbf{66.67}" not in tex
    assert r"mIoU (\%)" in tex
    # Nothing is best where all are the same.
    assert r"\textbf" not in ResultTable("t", [Column("x", "", ".1f", True)], [[1.01], [0.99]]).latex()


def test_seeds_are_pooled_over_folds_where_all_folds_are_there(tmp_path):
    for seed, last in ((0, 6), (1, 5)):
        for fold in range(1, last + 1):
            confusion = ((1, 0), (4, 5)) if fold > 1 else ((90, 10), (0, 0))
            network_run(tmp_path, f"s{seed}f{fold}", fold=fold, seed=seed, confusion=confusion)
    (table,) = class_tables(find_runs(tmp_path, LeftOut())[0])
    assert table.title == "Classes, six-fold, pooled"
    # The second seed has no sixth fold. Summed: [[95, 10], [20, 25]]
    assert table.rows[0][1] == "1"
    assert table.rows[0][5:] == [f"{100 * 95 / 125:.2f}", f"{100 * 25 / 55:.2f}"]


def test_costs_are_those_of_the_network_and_its_runs(tmp_path):
    for seed, seconds in ((0, 60), (1, 180)):
        folder = network_run(tmp_path, f"s{seed}", depth=3, k=4, seed=seed)
        path = folder / "metrics.json"
        training = {"seconds": seconds, "steps": 1000, "peak_memory_mb": 512.0}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"training": training}))
        (folder / "run.json").write_text(json.dumps({"hardware": {"device": "cuda", "gpu": "NVIDIA H100"}}))
    described(make_run(tmp_path, "own", SQUARE), model={"_target_": "mine.Net"}, points=4096)
    table = cost_table(find_runs(tmp_path, LeftOut())[0], LeftOut())
    ours, own = (dict(zip(table.header, row)) for row in table.cells)
    model = DeepGCN(depth=3, k=4, channels=16, num_classes=2, fusion_channels=32, head_channels=[16, 8])
    assert ours["GFLOP"] == summarize(model, 4096).flops / 1e9
    assert own["GFLOP"] is None
    assert (ours["runs"], ours["device"]) == (2, "NVIDIA H100")
    assert (ours["training"].mean, ours["training"].deviation) == (2, pytest.approx(2**0.5))
    assert ours["step"].mean == 120
    assert ours["parameters"] == 1234


@pytest.mark.parametrize("columns", [1, 3])
def test_latex_has_the_form_of_booktabs(columns):
    names = ["a_b & c", "50 %", "#"][:columns]
    cells = [[1.0, Spread(2.0, None), Interval(1, 2)], ["x\\y", Spread(3.0, 0.5), None]]
    table = ResultTable("t", [Column(name, "%", ".1f", True) for name in names], [row[:columns] for row in cells])
    tex = table.latex()
    begin, top, head, middle, *rows, bottom, end = [line for line in tex.splitlines() if not line.startswith("%")]
    assert re.fullmatch(r"\\begin\{tabular\}\{[lr]+\}", begin)
    assert len(begin) == len(r"\begin{tabular}{}") + columns
    assert (top, middle, bottom, end) == (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}")
    for line in (head, *rows):
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == columns - 1
        assert not re.search(r"(?<!\\)[%#_]", line)
        bare = re.sub(r"\\[{}]", "", line)
        assert bare.count("{") == bare.count("}")
    assert columns == 1 or (r"3.0 $\pm$ 0.5" in tex and r"\textbf{3.0" in tex)


def test_every_form_of_a_table_has_the_units():
    table = ResultTable("t", [Column("training", "min"), Column("mIoU", "%"), Column("run")], [[1.5, 2.5, "a"]])
    shown = Console(width=100, file=io.StringIO())
    shown.print(table.terminal())
    for text in (shown.file.getvalue(), table.markdown(), table.csv(), table.latex().replace("\\", "")):
        assert "training (min)" in text and "mIoU (%)" in text and "run (" not in text


def test_the_page_has_the_units(tmp_path):
    two_runs(tmp_path)
    page = reported(tmp_path)[1]
    for heading in ("training (min)", "step (ms)", "peak memory (MB)", "scoring (points/s)", "mIoU (%)"):
        assert re.search(f"<th[^>]*>{re.escape(heading)}</th>", page)
    assert re.search(r"</b> mIoU [\d.]+ %, mAcc [\d.]+ %, OA [\d.]+ %", page)


def test_settings_are_headed_by_words_unless_two_have_the_same(tmp_path):
    for run, (backbone, steps, ema, other) in zip(
        "abcd", [("x", 1, 1, 1), ("y", 2, 2, 1), ("x", 1, 2, 1), ("x", 2, 1, 2)]
    ):
        groups = {"backbone": {"name": backbone}, "recipe": {"name": "r", "ema": ema}, "other": {"ema": other}}
        described(make_run(tmp_path, run, SQUARE), **groups, max_steps=steps)
    (table,) = comparisons(find_runs(tmp_path, LeftOut())[0])
    settings = table.header[: table.header.index("mIoU")]
    assert set(settings) == {"backbone", "max steps", "recipe.ema", "other.ema"}


@pytest.mark.parametrize("repeated", [False, True])
def test_deviations_are_explained_where_there_are_some(tmp_path, repeated):
    network_run(tmp_path, "a", k=8)
    network_run(tmp_path, "b", k=8 if repeated else 16, seed=1)
    runs = find_runs(tmp_path, LeftOut())[0]
    tables = [*comparisons(runs), *class_tables(runs), cost_table(runs, LeftOut())]
    assert ("Means over seeds" in [table.title for table in tables]) == repeated
    assert any("deviation" in note for table in tables for note in table.notes) == repeated


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.000123456, "0.000123"),
        (1e-300, "0.000000"),
        (0.04567, "0.0457"),
        (8.125, "8.12"),
        (98765.4, "98,765"),
    ],
)
def test_small_costs_do_not_read_zero(value, shown):
    assert three_digits(value) == shown


def test_a_confusion_matrix_names_missing_classes_and_summed_seeds(tmp_path):
    network_run(tmp_path, "a", confusion=((3, 1), (0, 0)))

    def drawn():
        ((result,),) = comparable(find_runs(tmp_path, LeftOut())[0]).values()
        draw_confusion(result, "d", tmp_path / "c.png")
        return lines_of(tmp_path / "c.svg")

    texts = drawn()
    assert texts.count("no points") == 1 and "75" in texts and "0" in texts
    assert not any("seeds" in text for text in texts)
    network_run(tmp_path, "b", confusion=((1, 3), (0, 0)), seed=1)
    texts = drawn()
    assert "sum over 2 seeds" in " ".join(texts) and texts.count("50") >= 2
    for folder, seed in (("a", 0), ("b", 1)):
        scored([[seed, 1 - seed], [0, 5]])(tmp_path / folder)
    assert "no points" not in drawn()
    scored([[0, 0], [0, 5]])(tmp_path / "a")
    assert "the test rooms have no such points" in reported(tmp_path)[1]


def test_csv_has_every_digit_and_no_text_for_numbers():
    table = ResultTable("t", [Column("x", "%"), Column("y"), Column("i", "s")], [[0.1 + 0.2, "=1", Interval(1 / 3, 2)]])
    assert table.csv().splitlines() == ["x (%),y,i low (s),i high (s)", "0.30000000000000004,'=1,0.3333333333333333,2"]


def lines_of(svg):
    """Texts of an SVG file, in their order."""
    return ["".join(node.itertext()).strip() for node in ElementTree.parse(svg).iter() if node.tag.endswith("}text")]


@pytest.mark.parametrize("palette", ["screen", "print"])
def test_figures_are_written_in_three_formats_with_names_of_networks(tmp_path, palette):
    for kind, depth, seed in (("res", 7, 0), ("res", 7, 1), ("plain", 28, 0), ("dense", 14, 0)):
        folder = network_run(tmp_path, f"{kind}{depth}{seed}", kind=kind, depth=depth, seed=seed)
        (folder / "history.csv").write_text(
            "step,epoch,learning_rate,train_loss,validation_loss,mIoU,mAcc,OA,IoU/a,IoU/b,seconds,peak_memory_mb\n"
            + "".join(f"{10 * i},{i},0.1,{2 / i + seed},{3 / i},{1 - 0.5 / i},,,,,{i},1\n" for i in range(1, 9))
        )
    report(OmegaConf.create({"runs": str(tmp_path), "output": None, "palette": palette}))
    networks = {"ResGCN-7", "PlainGCN-28", "DenseGCN-14"}
    for name, shown, title in (
        ("report", networks, "mIoU (%)"),
        ("report-loss", {"PlainGCN-28", "DenseGCN-14", "ResGCN-7 (2 runs)"}, "Training loss"),
        ("report-miou", {"PlainGCN-28", "DenseGCN-14", "ResGCN-7 (2 runs)"}, "Validation mIoU (%)"),
        ("report-confusion", {"a", "b"}, "Truth"),
    ):
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF-")
        texts = lines_of(tmp_path / f"{name}.svg")
        assert shown <= set(texts) and title in texts
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 200


def test_bars_have_means_and_deviations_and_begin_below_the_values(tmp_path):
    for seed, miou in enumerate((75, 80)):
        network_run(tmp_path, f"s{seed}", seed=seed, confusion=scoring(miou))
    draw_scores(find_runs(tmp_path, LeftOut())[0], tmp_path / "a.png")
    texts = lines_of(tmp_path / "a.svg")
    # 77.5, and 5 / sqrt(2).
    assert "77.5 ± 3.5" in texts
    ticks = [float(text) for text in texts if re.fullmatch(r"[\d.]+", text)]
    assert 65 < min(ticks) < 74 and max(ticks) < 85


def test_no_two_lines_of_a_figure_look_alike():
    for kinds in (["ResGCN"] * 16, ["PlainGCN"] * 5 + ["ResGCN"] * 6 + ["DenseGCN"] * 5, list("abcdefg")):
        for palette in ("screen", "print"):
            styles = line_styles(kinds, palette)
            seen = {(tuple(s["color"]), str(s["linestyle"]), s.get("marker")) for s in styles}
            assert len(seen) == len(kinds)


def lightness(rgb):
    """L* of sRGB colours (n, 3), by the formulas of IEC 61966-2-1 and CIE 1976."""
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 255 / 12.92 for c in rgb]
    y = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


@pytest.mark.parametrize("number", [1, 2, 13, 20])
def test_print_colors_differ_in_grey(number):
    colors = print_colors(number)
    assert len(set(colors)) == number
    levels = sorted(map(lightness, colors))
    assert all(19 < level < 87 for level in levels)
    gaps = [b - a for a, b in zip(levels, levels[1:])]
    assert all(gap == pytest.approx(66 / (number - 1), abs=0.6) for gap in gaps)


def test_a_failed_run_is_listed_with_its_reason_and_a_stopped_one_with_its_step(tmp_path):
    two_runs(tmp_path)
    failed = make_run(tmp_path, "failed", SQUARE, finished=False)
    (failed / "failed.txt").write_text("CUDA out of\nmemory <b>\n")
    stopped = make_run(tmp_path, "stopped", SQUARE, finished=False)
    (stopped / "history.csv").write_text(
        "step,epoch,learning_rate,train_loss,validation_loss,mIoU,mAcc,OA,IoU/a,IoU/b,seconds,peak_memory_mb\n"
        "10,1,0.1,1.5,,,,,,,3,100\n20,2,0.1,1.25,1.75,0.5,0.5,0.5,,0.5,6,100\n"
    )
    make_run(tmp_path, "begun", SQUARE, finished=False)
    text, page = reported(tmp_path)
    for form in (text, page):
        assert "failed: CUDA out of memory &lt;b&gt;" in form
        assert "unfinished, after epoch 2 and step 20" in form
        assert "unfinished, without a finished epoch" in form


# -- settings that change together ------------------------------------------------------------------------------------


def configured(root, name, typed=(), **settings):
    """A run with further settings, and the arguments that were typed for it; None for a run that does not say."""
    folder = described(make_run(root, name, SQUARE), **settings)
    if typed is not None:
        (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(typed)))
    return folder


def paper(lr=1e-3, **others):
    return {"name": "paper", "optimizer": {"lr": lr}, "loss": "cross_entropy", "ema": None} | others


MODERN = paper(8e-3, name="modern", ema=0.99)


@pytest.mark.parametrize(
    ("runs", "columns", "notes", "labelled"),
    [
        pytest.param(
            [
                (["k=4", "recipe.optimizer.lr=1e-3"], {"k": 4, "recipe": paper()}),
                (
                    ["k=6", "recipe.optimizer.lr=8e-3", "recipe.loss=focal"],
                    {"k": 6, "recipe": paper(8e-3, loss="focal")},
                ),
            ],
            ["k", "loss", "learning rate"],
            [],
            [
                "ResGCN-7, k 4, learning rate 0.001",
                "ResGCN-7, k 6, loss focal, learning rate 0.008",
            ],
            id="typed together",
        ),
        pytest.param(
            [
                (["recipe=paper"], {"epochs": 150, "recipe": paper(), "model": {"norm_eps": 1e-3}}),
                (["recipe=modern"], {"epochs": 100, "recipe": MODERN, "model": {"norm_eps": 1e-5}}),
            ],
            ["recipe"],
            ["recipe changes together with: epochs, model.norm_eps."],
            ["ResGCN-7, recipe paper", "ResGCN-7, recipe modern"],
            id="a choice and what it sets",
        ),
        pytest.param(
            [
                (["recipe=paper"], {"epochs": 150, "recipe": paper()}),
                (["recipe=modern"], {"epochs": 100, "recipe": MODERN}),
                (["recipe=turns"], {"epochs": 100, "recipe": MODERN | {"name": "turns", "loss": "focal"}}),
            ],
            ["recipe"],
            ["recipe changes together with: epochs."],
            ["ResGCN-7, recipe paper", "ResGCN-7, recipe modern", "ResGCN-7, recipe turns"],
            id="choices that have a part in common",
        ),
        pytest.param(
            [
                (["recipe=paper", "k=4"], {"k": 4, "epochs": 150, "recipe": paper()}),
                (["recipe=modern", "k=6"], {"k": 6, "epochs": 100, "recipe": MODERN}),
            ],
            ["recipe", "k"],
            ["recipe changes together with: epochs."],
            ["ResGCN-7, recipe paper, k 4", "ResGCN-7, recipe modern, k 6"],
            id="a choice and a typed setting",
        ),
        pytest.param(
            [
                (["recipe=paper", "recipe.optimizer.lr=1e-3"], {"recipe": paper()}),
                (["recipe=modern", "recipe.optimizer.lr=8e-3"], {"recipe": MODERN}),
            ],
            ["recipe", "learning rate"],
            [],
            ["ResGCN-7, recipe paper, learning rate 0.001", "ResGCN-7, recipe modern, learning rate 0.008"],
            id="a choice and a setting of its group that was typed",
        ),
        pytest.param(
            [
                (["backbone=resgcn", "k=4"], {"k": 4}),
                (["backbone=plaingcn", "k=6"], {"k": 6, "backbone": {"name": "plaingcn"}}),
            ],
            ["backbone", "k"],
            [],
            ["ResGCN-7, k 4", "PlainGCN-7, k 6"],
            id="a kind of network and a typed setting",
        ),
        pytest.param(
            [
                (["conv=edge"], {"conv": {"_target_": "m.EdgeConv"}}),
                (
                    ["conv=pyg", "++conv.operator={_target_: m.Op, _partial_: true, a: 1}"],
                    {"conv": {"_target_": "m.Message", "operator": {"_target_": "m.Op", "_partial_": True, "a": 1}}},
                ),
            ],
            ["convolution", "conv.operator", "a"],
            [],
            ["ResGCN-7, convolution EdgeConv", "ResGCN-7, convolution Message, conv.operator Op, a 1"],
            id="a mapping that was typed",
        ),
        pytest.param(
            [(None, {"k": 4, "recipe": paper()}), (None, {"k": 6, "recipe": paper(8e-3)})],
            ["k"],
            ["k changes together with: recipe.optimizer.lr."],
            ["ResGCN-7, k 4", "ResGCN-7, k 6"],
            id="runs that do not say what was typed",
        ),
        pytest.param(
            [(["a=1"], {f"a{i}": 1 for i in range(20)} | {"a": 1}), (["a=2"], {f"a{i}": 2 for i in range(20)} | {"a": 2})],
            ["a"],
            ["a changes together with: a0, a1, a10, a11, a12, a13, a14, a15, a16, a17, a18, a19, 8 more."],
            ["ResGCN-7, a 1", "ResGCN-7, a 2"],
            id="many",
        ),
    ],
)  # fmt: skip
def test_settings_that_change_together_are_shown_or_named(tmp_path, runs, columns, notes, labelled):
    for number, (typed, settings) in enumerate(runs):
        configured(tmp_path, str(number), typed, **settings)
    found = find_runs(tmp_path, LeftOut())[0]
    (table,) = comparisons(found)
    assert table.header[: table.header.index("mIoU")] == columns
    assert [note for note in table.notes if "together" in note] == notes
    assert labels(found) == labelled


def test_a_seed_that_changes_with_a_setting_has_a_column(tmp_path):
    for k in (4, 6):
        described(make_run(tmp_path, f"k{k}", SQUARE, seed=k), k=k)
    (table,) = comparisons(find_runs(tmp_path, LeftOut())[0])
    assert table.header[:2] == ["k", "seed"]


def test_a_setting_that_was_changed_on_the_way_counts_as_typed(tmp_path):
    configured(tmp_path, "a", ["k=4"], k=4, epochs=3)
    folder = configured(tmp_path, "b", ["k=6"], k=6, epochs=5)
    path = folder / "metrics.json"
    changes = [{"step": 12, "settings": {"epochs": ["3", "5"]}}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"changes": changes}))
    (table,) = comparisons(find_runs(tmp_path, LeftOut())[0])
    assert table.header[:2] == ["epochs", "k"]


@pytest.mark.parametrize("content", ["{a: 1}", "[1]", "["])
def test_a_run_whose_typed_settings_cannot_be_read_is_left_out(tmp_path, content):
    make_run(tmp_path, "sound", SQUARE)
    folder = configured(tmp_path, "odd")
    (folder / ".hydra" / "overrides.yaml").write_text(content)
    left_out = LeftOut()
    assert [run.name for run in find_runs(tmp_path, left_out)[0]] == ["sound"]
    assert "overrides.yaml" in left_out.reasons[0]


# -- seeds and folds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 6])
def test_an_area_given_by_number_and_by_name_is_one_area(tmp_path, number):
    """``data.fold=4`` and ``data.fold=Area_4`` hold out the same rooms."""
    for seed in (0, 1):
        for area in range(1, number + 1):
            fold = area if (area + seed) % 2 else f"Area_{area}"
            folder = make_run(tmp_path, f"s{seed}a{area}", [[area, 1], [1, area]], fold=fold, seed=seed)
            changed(folds=[f"Area_{i}" for i in range(1, number + 1)])(folder)
    runs = find_runs(tmp_path, LeftOut())[0]
    count = {2: "2-fold", 6: "six-fold"}[number]
    tables = six_folds(runs)
    areas = [f"Area {area}" for area in range(1, number + 1)]
    assert [table.header for table in tables] == [["test area", *areas, "mean of areas", f"{count}, pooled"]] * 2
    hits = number * (number + 1) / 2
    expected = f"{100 * hits / (hits + 2 * number):.2f}"
    assert [table.rows[0][-1] for table in tables] == [expected] * 2
    (classes,) = class_tables(runs)
    assert (classes.title, classes.rows[0][1:3]) == (f"Classes, {count}, pooled", ["2", f"{expected} +- 0.00"])
    assert comparisons(runs)[1].rows[0][1] == "2"


def test_an_area_is_one_area_however_its_accents_are_stored_and_typed(tmp_path):
    stored, typed = (unicodedata.normalize(form, "Büro") for form in ("NFD", "NFC"))
    for seed, fold in ((0, stored), (1, typed)):
        for area in (fold, "7"):
            changed(folds=["7", stored])(make_run(tmp_path, f"{seed}{area}", SQUARE, fold=area, seed=seed))
    (classes,) = class_tables(find_runs(tmp_path, LeftOut())[0])
    assert (classes.title, classes.rows[0][1]) == ("Classes, 2-fold, pooled", "2")


OTHER = [[2, 2], [2, 2]]


def curve(folder, first, last):
    """Give a run losses at two steps."""
    (folder / "history.csv").write_text(
        "step,epoch,learning_rate,train_loss,validation_loss,mIoU,mAcc,OA,IoU/a,IoU/b,seconds,peak_memory_mb\n"
        f"10,1,0.1,{first},,,,,,,3,100\n20,2,0.1,{last},,,,,,,6,100\n"
    )


def seeds_of(runs):
    """What a report says of means over seeds: rows of the table of means and of that of classes, and all notes."""
    found = comparisons(runs)
    (classes,) = class_tables(runs)
    means = [row[:3] for table in found[1:] for row in table.rows]
    notes = [{note for note in table.notes if "was run" in note} for table in [*found, classes]]
    assert all(each == notes[0] for each in notes)
    return means, [row[:3] for row in classes.rows], list(notes[0])


def test_a_run_that_is_there_twice_counts_as_one_seed(tmp_path):
    for name, seed in (("a", 0), ("b", 0)):
        curve(make_run(tmp_path, name, SQUARE, seed=seed), 2, 1)
    runs = lambda: find_runs(tmp_path, LeftOut())[0]
    note = (
        f"ResGCN-7, seed 0, Area 5 was run 2 times with the same scores, and counts once: {tmp_path}/a, {tmp_path}/b."
    )
    assert seeds_of(runs()) == ([], [["ResGCN-7", "1", "60.00"]], [note])
    # 60 and 100 / 3: mean 46.67, deviation 18.86.
    make_run(tmp_path, "c", OTHER, seed=1)
    curve(tmp_path / "c", 4, 3)
    assert seeds_of(runs()) == (
        [["2", "46.67 +- 18.86", "62.50 +- 17.68"]],
        [["ResGCN-7", "2", "46.67 +- 18.86"]],
        [note],
    )
    ((result,),) = comparable(runs()).values()
    assert result.confusion.tolist() == [[5, 3], [3, 5]]
    assert cost_table(runs(), LeftOut()).rows[0][1] == "2"
    reported(tmp_path)
    assert "ResGCN-7 (2 runs)" in lines_of(tmp_path / "report-loss.svg")
    assert "46.7 ± 18.9" in lines_of(tmp_path / "report.svg")


@pytest.mark.parametrize("runs", [".", "../exp"])
def test_a_run_that_is_reported_from_its_own_folder_has_the_name_of_the_folder(tmp_path, monkeypatch, runs):
    for name in ("exp", "exp/again/exp"):
        make_run(tmp_path, name, SQUARE)
    monkeypatch.chdir(tmp_path / "exp")
    assert [run.name for run in find_runs(runs, LeftOut())[0]] == ["exp", "again/exp"]


def test_runs_whose_folders_have_one_name_are_told_apart(tmp_path):
    """Two sweeps name their jobs alike."""
    for sweep, confusion in (("first", SQUARE), ("second", OTHER)):
        make_run(tmp_path / sweep, "0_resgcn7", confusion)
    make_run(tmp_path / "first", "1_resgcn7", SQUARE, seed=1)
    runs = find_runs(tmp_path, LeftOut())[0]
    names = ["first/0_resgcn7", "1_resgcn7", "second/0_resgcn7"]
    assert sorted(row[-1] for row in comparisons(runs)[0].rows) == sorted(names)
    assert [row[0] for row in class_tables(runs)[0].rows] == [f"ResGCN-7, run {name}" for name in names]


def test_a_seed_with_two_scores_is_not_averaged(tmp_path):
    curve(make_run(tmp_path, "a", SQUARE), 2, 1)
    curve(make_run(tmp_path, "b", OTHER), 4, 3)
    make_run(tmp_path, "c", SQUARE, seed=1)
    make_run(tmp_path, "d", SQUARE, depth=14)
    make_run(tmp_path, "e", SQUARE, depth=14, seed=1)
    runs = find_runs(tmp_path, LeftOut())[0]
    means, classes, (note,) = seeds_of(runs)
    assert means == [["7", "1", "60.00"], ["7", "1", "33.33"], ["7", "1", "60.00"], ["14", "2", "60.00 +- 0.00"]]
    assert classes == [
        ["ResGCN-7, run a", "1", "60.00"],
        ["ResGCN-7, run b", "1", "33.33"],
        ["ResGCN-7, run c", "1", "60.00"],
        ["ResGCN-14", "2", "60.00 +- 0.00"],
    ]
    assert note.startswith("ResGCN-7, seed 0, Area 5 was run 2 times with different scores, which are not averaged")
    reported(tmp_path)
    assert {"ResGCN-7, run a", "ResGCN-7, run b"} <= set(lines_of(tmp_path / "report.svg"))


@pytest.mark.parametrize("same", [True, False])
def test_a_fold_that_is_there_twice_is_pooled_once_or_not_at_all(tmp_path, same):
    for area in (1, 2, 3):
        changed(folds=["Area_1", "Area_2", "Area_3"])(make_run(tmp_path, f"f{area}", SQUARE, fold=area))
    changed(folds=["Area_1", "Area_2", "Area_3"])(make_run(tmp_path, "again", SQUARE if same else OTHER, fold=3))
    runs = find_runs(tmp_path, LeftOut())[0]
    (table,) = six_folds(runs)
    assert sum("Area 3 was run 2 times" in note for note in table.notes) == 1
    assert ("3-fold, pooled" in table.header) == same
    classes = [each.title for each in class_tables(runs)]
    if same:
        assert table.header[1:4] == ["Area 1", "Area 2", "Area 3"]
        # 9 of 15 = 3 * 3 / (3 * 5)
        assert table.rows[0][-1] == "60.00"
        assert classes == ["Classes, 3-fold, pooled"]
    else:
        assert table.header[1:] == ["Area 1", "Area 2", "Area 3, run again", "Area 3, run f3"]
        assert classes == ["Classes, Area 1", "Classes, Area 2", "Classes, Area 3"]


@pytest.mark.parametrize(
    ("dataset", "areas", "folds", "published"),
    [
        ("S3DIS", 6, [5], ["Area 5"]),
        ("S3DIS", 6, [1], []),
        ("S3DIS", 6, [1, 2, 3, 4, 5, 6], ["Area 5", "six-fold"]),
        ("S3DIS", 4, [1, 2, 3, 4], []),
        ("synthetic", 6, [1, 2, 3, 4, 5, 6], []),
    ],
)
def test_published_scores_are_of_the_rooms_of_some_runs(tmp_path, dataset, areas, folds, published):
    make_run(tmp_path, "other", SQUARE)
    for fold in folds:
        changed(dataset=dataset, folds=[f"Area_{area}" for area in range(1, areas + 1)])(
            make_run(tmp_path, str(fold), SQUARE, fold=fold)
        )
    titles = [table.title for table in published_tables(find_runs(tmp_path, LeftOut())[0])]
    assert [title.split("S3DIS ")[1].split(" (")[0] for title in titles] == published


# -- scores and the counts from which they follow ---------------------------------------------------------------------


def scored_rooms(root):
    """A run as evaluation writes it: a class that is only predicted, one that no point has, a room without points."""
    by_room = torch.zeros(4, 4, 4, dtype=torch.int64)
    by_room[0, :2] = torch.tensor([[5, 1, 0, 0], [2, 7, 2, 0]])
    by_room[1, :2] = torch.tensor([[0, 0, 3, 0], [0, 6, 0, 0]])
    by_room[3, 0, 0] = 9
    rooms = [RoomEntry("Area_5", f"room_{number}", Path("x")) for number in range(4)]
    classes = ClassList(("a", "b", "c", "d"), ((0, 0, 0),) * 4)
    folder = make_run(root, "run", SQUARE)
    changed(**summary(Result(by_room, {}, 1.5, unlabelled=3), rooms, Protocol("recut"), classes))(folder)
    return folder


def recorded(change):
    """``metrics.json`` with its test part changed by a function."""

    def write(folder):
        path = folder / "metrics.json"
        content = json.loads(path.read_text())
        change(content["test"])
        path.write_text(json.dumps(content))

    return write


def in_room(name, **values):
    return recorded(lambda test: test["rooms"][f"Area_5/{name}"].update(values))


def of_class(scores, name, value):
    return recorded(lambda test: test[scores].update({name: value}))


# a: 14 points are right, 18 true and 16 predicted. b: 13, 17, 14. c: 0, 0, 5. IoU: 14 / 20, 13 / 18, 0, none.
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (changed(mIoU=0.5), "test: has mIoU 0.5, which is 0.474074 by its confusion matrix; correct what is wrong"),
        (changed(mIoU=None), "test: has mIoU null, which is 0.474074 by its confusion matrix"),
        (changed(mAcc=0.7711), "test: has mAcc 0.7711, which is 0.771242 by"),
        (changed(OA=27 / 38), "test: has OA 0.710526, which is 0.771429 by"),
        (changed(points=38), "test: has points 38, which is 35 by"),
        (of_class("IoU", "b", 0.5), "test: has IoU of b 0.5, which is 0.722222 by"),
        (of_class("IoU", "c", None), "test: has IoU of c null, which is 0 by"),
        (of_class("IoU", "d", 0.0), "test: has IoU of d 0, which is null by"),
        (of_class("IoU", "e", 0.5), "test: has IoU of e 0.5, which is null by"),
        (of_class("accuracy", "c", 0.0), "test: has accuracy of c 0, which is null by"),
        (recorded(lambda test: test["confusion"][0].reverse()), "test: has mIoU 0.474074, which is"),
        (recorded(lambda test: test["rooms"].popitem()), "test: has points of all rooms 26, which is 35 by"),
        (
            in_room("room_3", hits=[9, 0, 0, 0], truth=[8, 1, 0, 0], predicted=[9, 0, 0, 0], OA=8 / 9),
            "test.rooms.Area_5/room_3: a class has more hits than true or predicted points",
        ),
        (
            in_room("room_3", hits=[0] * 4, truth=[9, 0, 0, 0], predicted=[0, 9, 0, 0], mIoU=0.0, OA=0.0),
            "test: has hits of all rooms of a 5, which is 14 by its confusion matrix",
        ),
        (
            in_room("room_3", predicted=[8, 0, 0, 0], hits=[8, 0, 0, 0]),
            "test.rooms.Area_5/room_3: has predicted points 8, which is 9 by its hits, truth and predicted",
        ),
        (in_room("room_0", mIoU=0.9), "test.rooms.Area_5/room_0: has mIoU 0.9, which is 0.402778 by"),
        (in_room("room_1", OA=0.9), "test.rooms.Area_5/room_1: has OA 0.9, which is 0.666667 by"),
        (in_room("room_2", points=1), "test.rooms.Area_5/room_2: has points 1, which is 0 by"),
        (changed(areas=[4]), "test.areas is Area 4, but .hydra/config.yaml has data.fold=5"),
        (
            lambda folder: described(folder, data={"fold": 1.5}),
            "test.areas is Area 5, but .hydra/config.yaml has data.fold=1.5",
        ),
    ],
)
def test_what_contradicts_itself_is_left_out(tmp_path, change, why):
    """A score that is not that of the counts beside it, or of another area than the run's, is not reported."""
    make_run(tmp_path, "sound", SQUARE)
    change(scored_rooms(tmp_path))
    left_out = LeftOut()
    assert [run.name for run in find_runs(tmp_path, left_out)[0]] == ["sound"]
    (reason,) = left_out.reasons
    assert reason.startswith(f"{tmp_path / 'run' / 'metrics.json'}: {why}")


def without_counts(test):
    """Change what evaluation writes to what versions before 2026-11-27 wrote."""
    for room in test["rooms"].values():
        del room["hits"], room["truth"], room["predicted"]


def rounded(test):
    """Round scores to four decimals, as tables on the terminal have them."""
    for scores in (test, test["IoU"], test["accuracy"], *test["rooms"].values()):
        scores |= {name: round(value, 4) for name, value in scores.items() if isinstance(value, float)}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda folder: None, id="as written"),
        pytest.param(recorded(rounded), id="rounded"),
        pytest.param(recorded(without_counts), id="older"),
        pytest.param(
            recorded(lambda test: [test.pop(name) for name in ("IoU", "accuracy", "points", "rooms")]), id="the least"
        ),
        pytest.param(changed(areas=["Area_5"]), id="the area by name"),
        pytest.param(lambda folder: described(folder, data={"fold": "5"}), id="the area as text"),
        pytest.param(lambda folder: described(folder, data={"fold": "${area}"}), id="the area by reference"),
    ],
)
def test_reported_scores_are_those_of_the_confusion_matrix(tmp_path, change):
    change(scored_rooms(tmp_path))
    left_out = LeftOut()
    (run,) = find_runs(tmp_path, left_out)[0]
    assert not left_out.reasons
    expected = [100 * (14 / 20 + 13 / 18) / 3, 100 * (14 / 18 + 13 / 17) / 2, 100 * 27 / 35]
    (table,), (classes,) = comparisons([run]), class_tables([run])
    found = dict(zip(table.header, table.cells[0]))
    assert [found[name] for name in ("mIoU", "mAcc", "OA")] == pytest.approx(expected, abs=1e-12)
    assert classes.rows[0][2:] == ["47.41", "77.12", "77.14", "70.00", "72.22", "0.00", "-"]


# -- what was measured ------------------------------------------------------------------------------------------------


def measured_run(root, name, data, fold=5, seed=0, points=(4, 4), **room_points):
    """A run on data of that name: points of each class, and the points of each room."""
    folder = make_run(root, name, [[points[0], 0], [1, points[1] - 1]], fold=fold, seed=seed)
    # As earlier versions wrote them, without the points of each class.
    rooms = {room: {"points": count, "mIoU": 0.5, "OA": 0.5} for room, count in room_points.items()}
    changed(data=data, rooms=rooms, folds=["Area_1", "Area_2"])(folder)
    return folder


@pytest.mark.parametrize(
    ("points", "rooms"),
    [
        pytest.param((4, 4), {"office": 3, "hall": 5}, id="a room more"),
        pytest.param((4, 4), {"lobby": 8}, id="another room"),
        pytest.param((4, 5), {"office": 9}, id="more points"),
        pytest.param((5, 3), {"office": 8}, id="other labels"),
    ],
)
def test_runs_on_other_rooms_or_points_share_no_table_and_no_mean(tmp_path, points, rooms):
    for name, seed in (("a", 0), ("b", 1)):
        measured_run(tmp_path, name, "raw", seed=seed, office=8)
    measured_run(tmp_path, "c", "raw", seed=2, points=points, **rooms)
    runs = find_runs(tmp_path, LeftOut())[0]
    first, means, other = comparisons(runs)
    assert [row[-1] for row in first.rows] == ["a", "b"] and means.rows[0][0] == "2"
    assert [row[-1] for row in other.rows] == ["c"]
    counted = f"{len(rooms)} room{'s' if len(rooms) > 1 else ''}, {sum(points)} points"
    assert "Data: raw #1. Protocol: rooms. Tested on Area 5 (1 room, 8 points)." in first.notes
    assert f"Data: raw #2. Protocol: rooms. Tested on Area 5 ({counted})." in other.notes
    assert any("scored on other rooms" in note for note in first.notes)
    assert [row[1] for table in class_tables(runs) for row in table.rows] == ["2", "1"]


def test_data_that_are_named_differently_are_the_same_if_nothing_else_was_scored(tmp_path):
    for area, data, seed in ((1, "raw", 0), (2, "/abs/raw", 0), (1, "/abs/raw", 1), (2, "/abs/raw", 1)):
        measured_run(tmp_path, f"f{area}s{seed}", data, area, seed)
    runs = find_runs(tmp_path, LeftOut())[0]
    assert len(comparisons(runs)) == 2
    assert set(labels(runs)) == {"ResGCN-7"}
    for table in (comparisons(runs)[0], six_folds(runs)[0]):
        note = "The data have several names, but in no area other rooms or points: /abs/raw, raw."
        assert note in table.notes
    (table,) = class_tables(runs)
    assert (table.title, table.rows[0][1]) == ("Classes, 2-fold, pooled", "2")


@pytest.mark.parametrize(
    ("ones", "others", "alike"),
    [
        pytest.param({1: 4}, {2: 4}, True, id="no area of both"),
        pytest.param({1: 4, 2: 4}, {1: 4, 2: 5}, False, id="an area of both differs"),
    ],
)
def test_an_area_of_both_tells_data_of_two_names_apart(tmp_path, ones, others, alike):
    for data, areas in (("raw", ones), ("half", others)):
        for area, count in areas.items():
            measured_run(tmp_path, f"{data}{area}", data, area, points=(count, count))
    assert len({run.data for run in find_runs(tmp_path, LeftOut())[0]}) == (1 if alike else 2)


def test_areas_of_different_data_are_not_pooled(tmp_path):
    """The first runs of each folder are of different areas: none of them alone tells the data apart."""
    for name, data, area, count in (
        ("a", "full", 1, 9), ("b", "half", 2, 4), ("c", "half", 1, 5), ("d", "full", 2, 8),
    ):  # fmt: skip
        measured_run(tmp_path, name, data, area, points=(count, count))
    tables = six_folds(find_runs(tmp_path, LeftOut())[0])
    assert [(table.notes[0], table.rows[0][1:3]) for table in tables] == [
        ("Data: full. Protocol: rooms.", [f"{50 * (9 / 10 + 8 / 9):.2f}", f"{50 * (8 / 9 + 7 / 8):.2f}"]),
        ("Data: half. Protocol: rooms.", [f"{50 * (5 / 6 + 4 / 5):.2f}", f"{50 * (4 / 5 + 3 / 4):.2f}"]),
    ]


@pytest.mark.parametrize(
    "field",
    [
        pytest.param({"rooms": {}}, id="no rooms"),
        pytest.param({"dataset": ""}, id="no data set"),
        pytest.param({"protocol": "recut (64 sampled points a block)", **scores_of([[5, 0], [1, 2]])}, id="drawn"),
    ],
)
def test_what_is_not_known_tells_no_data_apart(tmp_path, field):
    for name, seed in (("a", 0), ("b", 1)):
        folder = measured_run(tmp_path, name, "raw", seed=seed, office=8)
        changed(dataset="S3DIS", **{key: value for key, value in field.items() if key == "protocol"})(folder)
        if seed:
            changed(**field)(folder)
    runs, means = comparisons(find_runs(tmp_path, LeftOut())[0])
    assert len(runs.rows) == 2 and means.rows[0][0] == "2"


@pytest.mark.parametrize("data", [("raw", "raw", "raw"), ("raw", "/abs/raw", "../raw")])
@pytest.mark.parametrize("unknown", ["a", "b"])
def test_a_run_of_unknown_rooms_does_not_join_runs_on_different_rooms(tmp_path, data, unknown):
    for seed, (name, called, room) in enumerate(zip("abc", data, ("office", "office", "lobby"))):
        measured_run(tmp_path, name, called, seed=seed, **({} if name == unknown else {room: 8}))
    together = [[row[-1] for row in table.rows] for table in comparisons(find_runs(tmp_path, LeftOut())[0])]
    assert [names for names in together if {"b", "c"} & set(names)] == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    "field", [{"dataset": "S3DIS"}, {"folds": ["Area_5"]}, scores_of([[3, 1], [1, 3]], ["a", "c"])]
)
def test_other_data_sets_areas_or_classes_are_other_data(tmp_path, field):
    for name, seed in (("a", 0), ("b", 1)):
        changed(dataset="ScanNet")(make_run(tmp_path, name, SQUARE, seed=seed))
    changed(**field)(tmp_path / "b")
    assert [table.title for table in comparisons(find_runs(tmp_path, LeftOut())[0])] == ["Runs", "Runs"]


@pytest.mark.parametrize(
    ("setting", "other"),
    [
        ({"save_every": 500}, {"save_every": 100}),
        ({"model": {"recompute": False}}, {"model": {"recompute": True}}),
        ({"model": {"checkpoint": False}}, {"model": {"recompute": True}}),
        ({"data": {"fold": 5, "store": {"root": "a"}}}, {"data": {"fold": 5, "root": "b", "store": {"root": "b"}}}),
        ({"device": "cpu", "devices": 1, "pages": True}, {"device": "cuda", "devices": 2, "pages": False}),
        ({"workers": 0}, {"workers": 4}),
        ({"protocol": {"side": 1.0}}, {"protocol": {"side": 1.0, "min_points": "${data.grid.min_points}"}}),
    ],
    ids=str,
)
def test_how_a_run_was_done_tells_no_experiments_apart(tmp_path, setting, other):
    described(make_run(tmp_path, "a", SQUARE), **setting)
    described(make_run(tmp_path, "b", SQUARE, seed=1), **other)
    table, means = comparisons(find_runs(tmp_path, LeftOut())[0])
    assert table.header[:2] == ["seed", "mIoU"]
    assert means.rows[0][0] == "2"


def begun_run(root, name, seed, path, sha256=None, fold=5):
    """A run with these first weights, and the checksum of their file if it is known."""
    folder = described(make_run(root, name, SQUARE, seed=seed, fold=fold), weights=path)
    file = folder / "metrics.json"
    weights = {"weights": {"path": path, "sha256": sha256, "step": 3}} if sha256 else {}
    file.write_text(json.dumps(json.loads(file.read_text()) | weights))
    changed(folds=["Area_5", "Area_6"])(folder)


@pytest.mark.parametrize(
    ("runs", "seeds", "note", "labelled"),
    [
        pytest.param([(0, "A", "1"), (1, "B", "2")], {"2"}, True, {""}, id="one for each seed"),
        pytest.param([(0, "A", None), (1, "B", None)], {"2"}, True, {""}, id="one for each seed, without checksums"),
        pytest.param([(0, "A", "1"), (1, "/abs/A", "1")], {"2"}, False, {""}, id="one file by two paths"),
        pytest.param([(0, "A", "1"), (1, "A", "2")], {"2"}, True, {""}, id="a file that was replaced"),
        pytest.param(
            [(0, "A", "1"), (1, "A", "1"), (0, "B", "2"), (1, "B", "2")], {"2"}, False, {"A", "B"}, id="files compared"
        ),
        pytest.param(
            [(0, "A", "1" * 9), (1, "A", "1" * 9), (0, "A", "2" * 9)],
            {"2", "1"}, False, {f"A ({'1' * 8})", f"A ({'2' * 8})"}, id="a replaced file compared",
        ),
        pytest.param([(0, "A", "1"), (1, "A", "1"), (2, "B", "2")], {"2", "1"}, False, {"A", "B"}, id="a shared file"),
        pytest.param([(0, None, None), (1, "B", "2")], set(), False, {"none", "B"}, id="random weights and a file"),
        pytest.param(
            [(0, None, None), (1, None, None), (0, "A", "1"), (1, "B", "2")],
            {"2"}, True, {"none", "one for each run"}, id="random weights and one for each seed",
        ),
    ],
)  # fmt: skip
def test_first_weights_tell_experiments_apart_unless_each_seed_has_its_own(tmp_path, runs, seeds, note, labelled):
    for number, (seed, path, sha256) in enumerate(runs):
        begun_run(tmp_path, str(number), seed, path, sha256)
    found = find_runs(tmp_path, LeftOut())[0]
    table, *means = comparisons(found)
    assert {row[each.header.index("seeds")] for each in means for row in each.rows} == seeds
    for each in (table, *means, *class_tables(found)):
        assert any("began with different weights: " in text for text in each.notes) == note
    assert {label.removeprefix("ResGCN-7").removeprefix(", weights ") for label in labels(found)} == labelled


def test_folds_that_began_with_a_file_each_are_pooled(tmp_path):
    for fold in (5, 6):
        begun_run(tmp_path, f"f{fold}", 0, f"pre{fold}", str(fold), fold)
    (table,) = six_folds(find_runs(tmp_path, LeftOut())[0])
    assert "2-fold, pooled" in table.header
    assert "ResGCN-7: repeats began with different weights: f5 with pre5, f6 with pre6." in table.notes


def test_a_score_that_is_missing_is_not_0(tmp_path, monkeypatch):
    monkeypatch.setattr("deepgcn_seg.commands.report.draw_curves", lambda *_: {})
    # Means: 50, of one of two seeds; 40; none; and 0. Only with drawn points can a seed be without any.
    scores = {3: (50, None), 5: (40, 40), 7: (None, None), 9: (0, 0)}
    for depth, mious in scores.items():
        for seed, miou in enumerate(mious):
            confusion = [[0, 0], [0, 0]] if miou is None else scoring(miou)
            make_run(tmp_path, f"{depth}s{seed}", confusion, depth=depth, seed=seed, protocol="recut (sampled points)")
    _, page = reported(tmp_path)
    bars = lines_of(tmp_path / "report.svg")
    assert {"50.0", "40.0 ± 0.0", "-", "0.0 ± 0.0"} <= set(bars)
    assert not any(text.startswith("25") for text in bars)
    # Of the highest mean that there is, where 840 of 1260 points are right.
    assert lines_of(tmp_path / "report-confusion.svg").count("67") == 2
    shown = re.findall(r"<b>(\d)s\d</b>", page)
    assert shown.index("9") < shown.index("7")


def test_runs_without_any_score_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("deepgcn_seg.reporting.figures.FORMATS", (".svg",))
    make_run(tmp_path, "a", [[0, 0], [0, 0]])
    draw_scores(find_runs(tmp_path, LeftOut())[0], tmp_path / "a.png")
    assert {"ResGCN-7", "-"} <= set(lines_of(tmp_path / "a.svg"))


def test_a_class_that_only_the_prediction_has_counts_as_0_and_one_that_neither_has_not_at_all(tmp_path):
    for seed, confusion in enumerate(([[3, 0], [0, 0]], [[2, 1], [0, 0]])):
        make_run(tmp_path, f"s{seed}", confusion, seed=seed, depth=seed + 1)
    (table,) = class_tables(find_runs(tmp_path, LeftOut())[0])
    assert [row[5:] for row in table.rows] == [["100.00", "-"], ["66.67", "0.00"]]
