"""List the 272 rooms of S3DIS, and find out which of them a folder has."""

from collections import Counter
from importlib.resources import files

from rich.table import Table

from ..escaping import terminal
from ..settings import some_of

# Most rooms that a line names.
_LISTED = 12


def expected_rooms() -> list[str]:
    """Return the keys of all 272 rooms: ``Area_1/conferenceRoom_1`` and so on."""
    lines = files(__package__).joinpath("s3dis_rooms.txt").read_text("utf-8").split()
    return [f"Area_{line.split('_')[1]}/{line.split('_', 2)[2]}" for line in lines]


def missing_rooms(found: list[str]) -> list[str]:
    """Return the rooms of S3DIS that are not among ``found``."""
    have = set(found)
    return [room for room in expected_rooms() if room not in have]


def rooms_table(found: list[str], title: str) -> Table:
    """Return a table with the rooms found, expected, missing and unknown in each area."""
    expected = expected_rooms()
    table = Table(title=terminal(title, "table.title"))
    for name in ("area", "found", "expected", "missing", "not in S3DIS"):
        table.add_column(name, justify="right" if name in ("found", "expected") else "left", overflow="fold")
    have, want = set(found), set(expected)
    counts = Counter(room.split("/")[0] for room in expected)
    for area in sorted(counts | Counter(room.split("/")[0] for room in found)):
        part = sorted(room for room in have if room.split("/")[0] == area)
        lacking = [room.split("/")[1] for room in expected if room.split("/")[0] == area and room not in have]
        extra = [room.split("/")[1] for room in part if room not in want]
        table.add_row(terminal(area), str(len(part)), str(counts[area]), named(lacking), terminal(named(extra)))
    table.add_section()
    table.add_row("all", str(len(have)), str(len(expected)), str(len(want - have)), str(len(have - want)))
    return table


def named(rooms: list[str]) -> str:
    """Return the first names in one line, and how many more there are."""
    return some_of(rooms, _LISTED) or "-"
