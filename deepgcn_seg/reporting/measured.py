"""Which runs were scored on the same data: by the rooms and points that were scored, not by what the data were called.

Data are called by the folder that they were prepared from, as it was typed. One folder may be typed in several ways,
and its rooms may change between two preparations.
"""

from collections import defaultdict
from collections.abc import Sequence

from ..evaluation.metrics_file import Scored, Tested


class _Data:
    """Runs that no area tells to be of different data. names: what they call the data. scored: by area."""

    def __init__(self, name: str):
        self.names = {name: None}
        self.scored: dict[str, Scored] = {}
        self.runs: list[int] = []

    def fits(self, other: "_Data") -> bool:
        """Return whether each area that both have was scored on the same rooms and points, as far as is known."""
        return all(self.scored[area].fits(other.scored[area]) for area in self.scored.keys() & other.scored.keys())

    def add(self, other: "_Data") -> None:
        self.names |= other.names
        self.scored |= {area: scored.joined(self.scored.get(area, scored)) for area, scored in other.scored.items()}
        self.runs += other.runs


def data_names(tests: Sequence[Tested]) -> list[str]:
    """Return a name for the data of each run, which is the same where scores can be compared or pooled over areas.

    Runs that call their data alike have different names, with a number, if they were scored on other rooms or points
    of the same area; data sets of other classes or areas are different, too. Runs that call their data differently have
    the same name if no area tells them apart.
    """
    kinds: dict[tuple, list[int]] = defaultdict(list)
    for i, test in enumerate(tests):
        # Earlier versions did not keep the name of the data set.
        others = {other.dataset for other in tests if other.dataset and other.classes == test.classes}
        dataset = test.dataset or (others.pop() if len(others) == 1 else "")
        kinds[test.protocol, dataset, test.folds, test.classes].append(i)
    found: dict[str, list[_Data]] = defaultdict(list)
    for (protocol, *_), runs in kinds.items():
        found[protocol] += _different(tests, runs)
    names = [""] * len(tests)
    for every in found.values():
        for data in every:
            name = next(iter(data.names))
            alike = [other for other in every if name in other.names]
            for i in data.runs:
                names[i] = name if len(alike) == 1 else f"{name} #{alike.index(data) + 1}"
    return names


def _different(tests: Sequence[Tested], runs: Sequence[int]) -> list[_Data]:
    """Return the different data of some runs, given by their places in ``tests``."""
    # Of one name, the first rooms of each area are taken together, then the second ones, and so on.
    versions: dict[tuple[str, str], list[Scored]] = defaultdict(list)
    by_name: dict[tuple[str, int], _Data] = {}
    for i in runs:
        test = tests[i]
        known = versions[test.data, test.area]
        version = next((n for n, scored in enumerate(known) if scored.fits(test.scored)), len(known))
        if version == len(known):
            known.append(test.scored)
        # A run that does not know its rooms must not make others alike that do.
        known[version] = known[version].joined(test.scored)
        data = by_name.setdefault((test.data, version), _Data(test.data))
        data.scored[test.area] = known[version]
        data.runs.append(i)
    different: list[_Data] = []
    for data in by_name.values():
        same = next((other for other in different if other.fits(data)), None)
        if same is None:
            different.append(data)
        else:
            same.add(data)
    return different
