"""The structure of the package: what imports what, and that docstrings refer to what there is."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "deepgcn_seg"
# From the top; a package imports those below it only, and packages beside each other do not import one another.
FLOORS = (
    ("commands",),
    ("training", "benchmark", "reporting"),
    ("evaluation",),
    ("inference", "pyg"),
    ("model",),
    ("data",),
    ("ops",),
)
PACKAGES = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def _name(path):
    parts = ("deepgcn_seg", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in ROOT.rglob("*.py")}


def _imports(name):
    """The modules of the package that a module imports, inside functions too."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom):
            base = (
                importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                if node.level
                else node.module
            )
            for alias in node.names:
                target = f"{base}.{alias.name}"
                if (target if target in MODULES else base) in MODULES:
                    yield target if target in MODULES else base
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)


IMPORTS = {name: set(_imports(name)) for name in MODULES}


def _floor(name):
    """0 is the top; files beside the packages are below all of them, but the package's face and its commands above."""
    package = name.split(".")[1] if "." in name else None
    return -1 if package in (None, "__main__") else PACKAGES.get(package, len(FLOORS))


def test_no_module_imports_itself_by_way_of_others():
    remaining = {name: set(targets) for name, targets in IMPORTS.items()}
    # Take away what imports nothing that remains, or is imported by nothing that remains, until only circles are left.
    while True:
        imported = set().union(*remaining.values()) if remaining else set()
        ends = {name for name, targets in remaining.items() if not targets & remaining.keys() or name not in imported}
        if not ends:
            break
        remaining = {name: targets - ends for name, targets in remaining.items() if name not in ends}
    assert not remaining, f"circles among {sorted(remaining)}"


@pytest.mark.parametrize("name", sorted(IMPORTS))
def test_imports_go_down(name):
    for target in IMPORTS[name]:
        same = name.split(".")[1:2] == target.split(".")[1:2]
        below = _floor(target) > _floor(name) or (_floor(name) == _floor(target) == len(FLOORS))
        assert same or below, f"{name} imports {target}, which stands above or beside it"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_docstrings_refer_to_what_there_is(name):
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for reference in re.findall(r":(?:mod|class|func|data|meth|attr):`~?([^`]+)`", MODULES[name].read_text()):
        if reference.startswith("."):
            reference = importlib.util.resolve_name(reference, package)
        assert _exists(reference, name), f"{name} refers to {reference}"


def _exists(reference, module):
    """Whether a dotted name is a module, something in one, something of ``module``, or of a class in it."""
    own = vars(importlib.import_module(module))
    classes = [value for value in own.values() if isinstance(value, type)]
    first, *rest = reference.split(".")
    starts = [own[first]] if first in own else [getattr(c, first) for c in classes if hasattr(c, first)]
    for cut in range(len(reference.split(".")), 0, -1) if not starts else ():
        (*names,) = reference.split(".")
        try:
            starts, rest = [importlib.import_module(".".join(names[:cut]))], names[cut:]
            break
        except ImportError:
            continue
    for attribute in rest:
        starts = [getattr(start, attribute) for start in starts if hasattr(start, attribute)]
    return bool(starts)
