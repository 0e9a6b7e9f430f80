"""The structure of the package: what imports what, and that docstrings refer to what there is."""

import ast
import importlib
import re
import runpy
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


def circles(imports):
    """What imports itself by way of others, of a mapping from names to the names that they import."""
    remaining = {name: set(targets) for name, targets in imports.items()}
    # Take away what imports nothing that remains, or is imported by nothing that remains, until only circles are left.
    while True:
        imported = set().union(*remaining.values()) if remaining else set()
        ends = {name for name, targets in remaining.items() if not targets & remaining.keys() or name not in imported}
        if not ends:
            return sorted(remaining)
        remaining = {name: targets - ends for name, targets in remaining.items() if name not in ends}


def test_no_module_imports_itself_by_way_of_others():
    assert not circles(IMPORTS)


# The plain formulation of the operations. It imports nothing of the package, and the kernels beside it, which compute
# the same, finish their results with its functions. So it counts as a package.
ALONE = ("deepgcn_seg.ops.reference",)


def _package(name):
    """The package that a module is in. A file beside the packages of the first level is one by itself."""
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    return name if package == "deepgcn_seg" or name in ALONE else package


def package_imports(imports):
    """The packages that each package imports, itself left out."""
    found = {}
    for name, targets in imports.items():
        found.setdefault(_package(name), set()).update(map(_package, targets))
    return {package: targets - {package} for package, targets in found.items()}


def test_no_package_imports_itself_by_way_of_others():
    assert not circles(package_imports(IMPORTS))


def test_an_import_upwards_makes_a_circle_of_packages():
    upwards = {**IMPORTS, "deepgcn_seg.data.scans.search": {"deepgcn_seg.data.classes"}}
    assert circles(package_imports(upwards)) == ["deepgcn_seg.data", "deepgcn_seg.data.scans"]


@pytest.mark.parametrize("name", ALONE)
def test_what_counts_as_a_package_imports_nothing_of_this_one(name):
    assert not IMPORTS[name]


# What has a face: others import its __init__ alone, and none of the files behind it.
FACES = ("deepgcn_seg.ops",)


@pytest.mark.parametrize("face", FACES)
def test_nobody_imports_past_a_face(face):
    inside = lambda name: name.startswith(f"{face}.")
    past = {name: list(filter(inside, targets)) for name, targets in IMPORTS.items() if not inside(name)}
    # The face itself gathers what it shows.
    del past[face]
    assert {name: targets for name, targets in past.items() if targets} == {}


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


def test_every_kernel_is_kept_where_that_is_safe():
    # numba's own cache ends the process where neither the source's folder nor HOME can be written, as in a container.
    for name, path in MODULES.items():
        text = path.read_text()
        assert name == "deepgcn_seg.kernel_cache" or not re.search(r"\bnjit\b|numba\.jit|cache=True", text), name


def _without_encoding(node):
    """Whether a call reads or writes text in the encoding of the user's locale."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
    if name == "open" and isinstance(node.func, ast.Name):
        without = len(node.args) < 4 and "b" not in "".join(map(ast.unparse, node.args[1:2]))
    else:
        without = len(node.args) < {"read_text": 1, "write_text": 2}.get(name, 0)
    return without and all(keyword.arg != "encoding" for keyword in node.keywords)


@pytest.mark.parametrize("name", MODULES)
def test_text_is_read_and_written_in_one_encoding_whatever_the_locale(name):
    tree = ast.parse(MODULES[name].read_text("utf-8"))
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    assert not [f"line {node.lineno}: {ast.unparse(node)}" for node in calls if _without_encoding(node)]


@pytest.mark.parametrize("tool", sorted((ROOT.parent / "tools").glob("*.py")), ids=lambda path: path.stem)
def test_processes_that_a_tool_starts_import_nothing_by_way_of_it(tool):
    """A spawned process runs the file that was started: what it imports there, seconds of it, it mostly does not need."""
    found = runpy.run_path(str(tool), run_name="__mp_main__")
    assert not [name for name in found if not name.startswith("__")]
