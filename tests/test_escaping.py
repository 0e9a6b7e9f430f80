"""Text from elsewhere in every form of output: shown as it is, never read as instructions."""

import io
import logging
import logging.config
from pathlib import Path

import pytest
import yaml
from matplotlib.text import Text as FigureText
from rich.console import Console
from rich.table import Table

from deepgcn_seg.data.classes import ClassList
from deepgcn_seg.data.rooms_of_s3dis import rooms_table
from deepgcn_seg.escaping import csv_cell, figure, latex, markdown, one_line, terminal
from deepgcn_seg.evaluation.metrics import Scores
from deepgcn_seg.evaluation.scores import print_scores
from deepgcn_seg.progress import Meter


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\nb\tc\r\u2028d", "a b c  d"),
        ("a\x1b[2J\x07\x00\x9b", "a?[2J???"),
        ("a\u202eb\udc80", "a?b?"),
        ("Büro 東", "Büro 東"),
        pytest.param(16**5000, "?", id="thousands of digits"),
        (None, "None"),
    ],
)
def test_one_line_has_no_control_characters(value, expected):
    assert one_line(value) == expected


def test_one_line_is_cut():
    assert one_line("x" * 9, 4) == "xxxx..."
    assert one_line("x" * 4, 4) == "xxxx"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\input{a}", r"\textbackslash{}input\{a\}"),
        ("50% of $a_b & #1", r"50\% of \$a\_b \& \#1"),
        ("~ ^^5c", r"\textasciitilde{} \textasciicircum{}\textasciicircum{}5c"),
        ("[x] *", "{[}x] {*}"),
        ("a\n\\end{document}", r"a \textbackslash{}end\{document\}"),
    ],
)
def test_latex(text, expected):
    assert latex(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b\\|", r"a\|b\\\|"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("![x](javascript:y)", r"\!\[x\](javascript:y)"),
        ("`x` *y* _z_ ~w~ $m$ #", r"\`x\` \*y\* \_z\_ \~w\~ \$m\$ \#"),
        ("a\n# b", r"a \# b"),
    ],
)
def test_markdown(text, expected):
    assert markdown(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-x", "'-x"),
        ("@sum", "'@sum"),
        ("\uff1d1", "'\uff1d1"),
        ("\t=1", " =1"),
        ("-1.5e-3", "-1.5e-3"),
        ("-", "-"),
        ("", ""),
        ("57.00 +- 1.41", "57.00 +- 1.41"),
        ("1,234", "1,234"),
    ],
)
def test_csv_cells_are_no_formulas(text, expected):
    assert csv_cell(text) == expected


@pytest.mark.parametrize("text", ["$a_b^{c$", r"\$x$ y$", "a$", r"a \alpha", "_hidden", "plain"])
def test_figures_show_dollars_and_underscores(text):
    shown, is_math = FigureText(text=figure(text))._preprocess_math(figure(text))
    assert not is_math
    assert shown.lstrip() == text
    assert not figure(text).startswith("_")


def printed(table):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


ODD = "[/x] [red]a :smile: [link=y]"


def test_the_terminal_shows_brackets(capsys):
    table = Table(title=terminal(ODD))
    table.add_column(terminal(ODD))
    table.add_row(terminal(ODD))
    assert printed(table).count(ODD) == 3
    assert ODD in printed(rooms_table([f"Area_1/{ODD}"], ODD))
    console = Console(width=200)
    print_scores(
        Scores([0.5], [0.5], 0.5, 0.5, 0.5),
        ClassList((ODD,), ((0, 0, 0),)),
        f"title {ODD}",
        f"caption {ODD}",
        console=console,
    )
    assert capsys.readouterr().out.count(ODD) == 3


@pytest.mark.parametrize("name", ["terminal", "file"])
@pytest.mark.parametrize(
    ("message", "args", "expected"),
    [
        ("%s: read", (Path("a\x1b]0;x\x07\r\nb\u202ec\x9b"),), r"a\x1b]0;x\x07\r\nb\u202ec\x9b: read"),
        ("Not labelled:\n  %s", ("a\x1b[2J: lost\n  b",), "Not labelled:\n  a\\x1b[2J: lost\n  b"),
        ("%(key)s and %(key)s", ({"key": "\x00"},), r"\x00 and \x00"),
        ("Büro 東\t100%", (), "Büro 東\t100%"),
    ],
)
def test_the_log_shows_control_characters(name, message, args, expected):
    settings = yaml.safe_load((Path(__file__).parents[1] / "conf/hydra/job_logging/plain.yaml").read_text())
    formatter = logging.config.DictConfigurator(settings).configure_formatter(settings["formatters"][name])
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, message, args, None)
    assert formatter.format(record).endswith(expected)


def test_progress_shows_brackets(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    with Meter(f"title {ODD}\x1b[2J", 2) as meter:
        meter.advance(f"text {ODD}")
    shown = capsys.readouterr().err
    assert f"title {ODD}" in shown
    assert f"text {ODD}" in shown
    assert "\x1b[2J" not in shown
