"""The weights that runs began with (the setting ``weights``), which do not tell repeats of an experiment apart."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from .run import Run

# The value of ``weights`` of runs that repeat one experiment, each with first weights of its own.
OWN = "one for each run"


def with_beginnings(runs: Sequence[Run]) -> list[Run]:
    """Return runs whose setting ``weights`` has one value where they repeat one experiment.

    A file has one name, however its path was typed, and two files have different names, also if one replaced the other.
    Runs of different seeds that are alike in all other settings and began with a file each, such as trainings of the
    same seed on other data, repeat one experiment: their value is :data:`OWN`. If a seed began with several files, or a
    file was given to several seeds, the files are what is compared, and they keep their values.
    """
    named = [replace(run, weights=name) for run, name in zip(runs, _names(runs))]
    alike: dict[tuple, dict[tuple[str, str], set[str]]] = defaultdict(lambda: defaultdict(set))
    experiments = [_having(run, OWN).experiment for run in named]
    for run, experiment in zip(named, experiments):
        if run.weights:
            alike[experiment][run.area, run.seed].add(run.weights)
    own = {experiment for experiment, files in alike.items() if _one_for_each(files)}
    return [
        _having(run, OWN if experiment in own else run.weights) if run.weights else run
        for run, experiment in zip(named, experiments)
    ]


def _having(run: Run, weights: str) -> Run:
    return replace(run, settings={**run.settings, "weights": weights})


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the name of the file that each run began with: its path as it was typed; empty for random weights."""
    given = [str(run.settings.get("weights", "none")) for run in runs]
    files = [run.metrics.weights.sha256 if run.metrics.weights else path for run, path in zip(runs, given)]
    path_of = dict(reversed(list(zip(files, given))))
    files_of = Counter(path_of.values())
    names = {file: path if files_of[path] == 1 else f"{path} ({file[:8]})" for file, path in path_of.items()}
    return ["" if path == "none" else names[file] for path, file in zip(given, files)]


def _one_for_each(files: Mapping[tuple[str, str], set[str]]) -> bool:
    """Return whether there are several files, given by area and seed, and each seed on an area has another one."""
    if len(set().union(*files.values())) < 2:
        return False
    areas = {area for area, _ in files}
    by_area = [[name for (there, _), names in files.items() if there == area for name in names] for area in areas]
    return all(len(names) == 1 for names in files.values()) and all(len(set(names)) == len(names) for names in by_area)
