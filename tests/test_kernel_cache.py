"""Compiled kernels between processes: kept where only their user can write, and never needed."""

import errno
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from numba.core import config
from numba.core.caching import IndexDataCacheFile

from deepgcn_seg.cache_folder import UNUSED_DAYS, cache_folder, is_private
from deepgcn_seg.data.row_kernel import parse_text
from deepgcn_seg.kernel_cache import digest, kernel_folder
from deepgcn_seg.ops.backends import triton_available

KERNEL = """
from deepgcn_seg.kernel_cache import kernel
@kernel()
def twice(x):
    return 2 * x
"""
# No user, root included, can make a directory there.
UNUSABLE = "/dev/null/none"


@pytest.fixture
def places(monkeypatch, tmp_path):
    """Sets the user's cache directory, HOME and the temporary directory; kernels of the session are left alone."""

    def set_places(cache=None, home=UNUSABLE, temporary=UNUSABLE):
        for name, value in (("XDG_CACHE_HOME", cache), ("HOME", home)):
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, str(value))
        monkeypatch.setattr(tempfile, "gettempdir", lambda: str(temporary))
        kernel_folder.cache_clear()

    monkeypatch.setattr(config, "CACHE_DIR", "")
    yield set_places
    kernel_folder.cache_clear()


def new_process(tmp_path):
    """The kernel as a new process has it: compiled by nobody yet."""
    path = tmp_path / "a_kernel.py"
    if not path.exists():
        # Older versions of numba tell a changed source by its time.
        path.write_text(KERNEL)
    spec = importlib.util.spec_from_file_location("a_kernel", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.twice


def was_kept(twice):
    return bool(sum(twice.stats.cache_hits.values()))


@pytest.mark.parametrize(
    ("set_to", "expected"),
    [
        ({"cache": "a", "home": "b", "temporary": "c"}, "a/deepgcn_seg"),
        ({"cache": None, "home": "b", "temporary": "c"}, "b/.cache/deepgcn_seg"),
        ({"cache": "", "home": "b", "temporary": "c"}, "b/.cache/deepgcn_seg"),
        ({"cache": "a/not/there", "home": "b", "temporary": "c"}, f"c/deepgcn_seg-{os.geteuid()}"),
        ({"cache": "file", "home": "b", "temporary": "c"}, f"c/deepgcn_seg-{os.geteuid()}"),
        ({"cache": None, "home": "not there", "temporary": "c"}, f"c/deepgcn_seg-{os.geteuid()}"),
        ({"cache": None, "home": UNUSABLE, "temporary": "c"}, f"c/deepgcn_seg-{os.geteuid()}"),
        ({"cache": None, "home": UNUSABLE, "temporary": "."}, None),
        ({"cache": None, "home": ".", "temporary": "c"}, f"c/deepgcn_seg-{os.geteuid()}"),
        ({"cache": None, "home": UNUSABLE, "temporary": UNUSABLE}, None),
    ],
)
def test_kernels_are_kept_in_the_first_place_that_can_be_used(places, tmp_path, monkeypatch, set_to, expected):
    for name in "abc":
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path / "a")
    places(
        **{key: value and (value if value in (UNUSABLE, ".") else tmp_path / value) for key, value in set_to.items()}
    )
    twice = new_process(tmp_path)
    assert twice(21) == 42
    folder = kernel_folder()
    assert (folder and folder.parent) == (expected and tmp_path / expected)
    assert not (tmp_path / "not there").exists()
    if folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        again = new_process(tmp_path)
        assert again(21) == 42
        assert was_kept(again)


@pytest.mark.parametrize("environment", [{}, {"TRITON_CACHE_DIR": "chosen"}, {"TRITON_HOME": "home"}])
def test_triton_keeps_kernels_there_too(places, tmp_path, monkeypatch, environment):
    knobs = pytest.importorskip("triton.knobs")
    for name in ("TRITON_CACHE_DIR", "TRITON_HOME"):
        # Set first, so that what the call sets is undone.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    places(cache=tmp_path)
    triton_available.__wrapped__()
    expected = {"TRITON_CACHE_DIR": "chosen", "TRITON_HOME": os.path.join("home", ".triton", "cache")}
    assert knobs.cache.dir == next((expected[name] for name in environment), str(tmp_path / "deepgcn_seg" / "triton"))


def test_numba_cache_dir_is_where_kernels_go(places, tmp_path, monkeypatch):
    places(cache=tmp_path / "cache")
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "chosen" / "here"))
    assert new_process(tmp_path)(21) == 42
    again = new_process(tmp_path)
    assert again(21) == 42
    assert was_kept(again)
    assert list((tmp_path / "chosen" / "here").rglob("*.nbc"))
    assert not list((tmp_path / "cache").rglob("*.nbc"))


def _foreign(path):
    os.chown(path, 12345, -1)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: folder.chmod(0o777),
        lambda folder: folder.chmod(0o770),
        lambda folder: folder.parent.chmod(0o777),
        lambda folder: folder.parent.parent.chmod(0o777),
        lambda folder: folder.rename(folder.with_name("x")).with_name("name").symlink_to(folder.with_name("x")),
        pytest.param(_foreign, marks=pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")),
        pytest.param(
            lambda folder: _foreign(folder.parent.parent),
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away"),
        ),
    ],
    ids=["others", "group", "parent", "above", "link", "of another", "above of another"],
)
def test_a_folder_that_another_user_can_change_is_not_used(places, tmp_path, change):
    (tmp_path / "above").mkdir()
    places(cache=tmp_path / "above")
    folder = cache_folder("name")
    assert folder == tmp_path / "above" / "deepgcn_seg" / "name"
    change(folder)
    assert not is_private(folder)
    assert cache_folder("name") is None


def test_a_shared_sticky_directory_is_used_but_not_what_another_prepared_there(places, tmp_path):
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    places(temporary=shared)
    folder = cache_folder("name")
    assert folder.parent.parent == shared
    folder.parent.chmod(0o777)
    assert cache_folder("name") is None


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", [b"", b"\x80\x05", b"nonsense"], ids=["empty", "cut", "other"])
def test_a_damaged_kernel_is_compiled_again(places, tmp_path, suffix, damage):
    places(cache=tmp_path)
    assert new_process(tmp_path)(21) == 42
    (file,) = kernel_folder().glob(f"*{suffix}")
    file.write_bytes(damage)
    damaged, again = new_process(tmp_path), new_process(tmp_path)
    assert damaged(21) == 42
    assert not was_kept(damaged)
    assert again(21) == 42
    assert was_kept(again)


def test_machine_code_with_a_changed_byte_is_not_run(places, tmp_path):
    places(cache=tmp_path)
    assert new_process(tmp_path)(21) == 42
    (file,) = kernel_folder().glob("*.nbc")
    content = file.read_bytes()
    at = content.index(b"\x7fELF") if b"\x7fELF" in content else len(content) // 2
    for place in range(at, len(content) - 1, (len(content) - at) // 20):
        file.write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
        damaged = new_process(tmp_path)
        assert damaged(21) == 42
        assert not was_kept(damaged)
        file.write_bytes(content)


def test_a_kernel_of_another_signature_is_not_taken(places, tmp_path):
    """What two processes that keep kernels at once can leave: an index that names the other's file."""
    places(cache=tmp_path)
    first = new_process(tmp_path)
    assert (first(21), first(1.25)) == (42, 2.5)
    one, two = sorted(kernel_folder().glob("*.nbc"))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    again = new_process(tmp_path)
    assert (again(21), again(1.25)) == (42, 2.5)


@pytest.mark.parametrize(
    "happens", [lambda folder: folder.chmod(0o777), lambda folder: folder.rename(folder.with_name("x")), None]
)
def test_a_cache_that_fails_in_the_middle_of_work_does_not_end_it(places, tmp_path, monkeypatch, happens, caplog):
    places(cache=tmp_path)
    twice = new_process(tmp_path)
    assert twice(21) == 42
    if happens:
        happens(kernel_folder())
    else:

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(IndexDataCacheFile, "save", full)
    assert twice(1.25) == 2.5
    again = new_process(tmp_path)
    assert again(21) == 42
    assert was_kept(again) == (happens is None)


def test_several_processes_keep_kernels_at_once(tmp_path):
    (tmp_path / "a_kernel.py").write_text(KERNEL)
    command = [sys.executable, "-c", "from a_kernel import twice; print(twice(21), twice(1.25), twice(1j))"]
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parent.parent)])
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": paths}
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0] for process in started] == ["42 2.5 2j\n"] * 3


def test_kernels_are_those_of_the_sources_and_settings(tmp_path, monkeypatch):
    def of(**settings):
        with monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setattr(config, name, value)
            return digest(tmp_path)

    (tmp_path / "kernel.py").write_text("one = 1")
    names = [of(), of(OPT=0), of(CPU_NAME="generic"), of(CPU_FEATURES="+avx2"), of(BOUNDSCHECK=1)]
    (tmp_path / "helper.py").write_text("two = 2")
    names.append(of())
    (tmp_path / "helper.py").write_text("two = 3")
    names.append(of())
    assert len(set(names)) == len(names)
    assert of() == names[-1]


def test_folders_that_nothing_uses_any_more_are_removed(places, tmp_path):
    places(cache=tmp_path)
    old, recent = cache_folder("old"), cache_folder("recent")
    (old / "a.nbc").touch()
    for folder, days in ((old, UNUSED_DAYS + 1), (recent, UNUSED_DAYS - 1)):
        os.utime(folder, (time.time() - days * 86400,) * 2)
    assert cache_folder("new").is_dir()
    assert not old.exists()
    assert recent.exists()


USED = """
import torch
from deepgcn_seg.ops import nearest_ranks, neighbor_max, set_backend
from deepgcn_seg.ops.backends import implementation
from deepgcn_seg.data.row_kernel import parse_text
# Whole numbers of mean 0: every distance is exact, in whatever order a machine adds.
points = torch.randint(-99, 100, (1, 150, 3)).float()
points = torch.cat([points, -points], dim=1)
ranks = torch.arange(8)
rows, odd = parse_text(b"1.25 -2 3 4 5 255\\nx\\n")
assert rows[0].tolist() == [1.25, -2, 3, 4, 5, 255] and len(odd) == 1
found = nearest_ranks(points, ranks)
highest = neighbor_max(points, found)
print(implementation(points))
set_backend("torch")
distances = lambda index: (points[0][index[0]] - points[0][:, None]).square().sum(-1)
assert torch.equal(distances(found), distances(nearest_ranks(points, ranks)))
assert torch.equal(highest, neighbor_max(points, found))
"""


@pytest.mark.parametrize(
    ("settings", "used"),
    [
        ({"NUMBA_DISABLE_JIT": "1"}, "torch"),
        ({"NUMBA_NUM_THREADS": "1", "NUMBA_THREADING_LAYER": "nonsense"}, "numba"),
        *(
            pytest.param(settings, "numba", marks=pytest.mark.slow)
            for settings in (
                {"NUMBA_CPU_NAME": "generic", "NUMBA_ENABLE_AVX": "0"},
                {"NUMBA_CPU_NAME": "nonsense"},
                {"NUMBA_CPU_NAME": "x86-64-v2", "NUMBA_CPU_FEATURES": ""},
                {"NUMBA_CPU_FEATURES": "+avx2,+fma,-avx"},
                {"NUMBA_CPU_FEATURES": "+nonsense", "NUMBA_OPT": "0"},
            )
        ),
    ],
    ids=lambda value: " ".join(map("=".join, value.items())) if isinstance(value, dict) else value,
)
def test_whatever_numba_is_told_to_compile_for_results_are_the_same(tmp_path, settings, used):
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent), **settings}
    if set(settings) & {"NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX", "NUMBA_OPT"}:
        environment["NUMBA_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", USED], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{used}\n"


def test_features_that_llvm_cannot_read_are_one_line(tmp_path):
    command = [sys.executable, "-c", "import deepgcn_seg.ops.cpu.simd"]
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent), "NUMBA_CPU_FEATURES": "avx2"}
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("UserError: NUMBA_CPU_FEATURES=avx2: must be like +avx2,-avx512f")


def test_rows_are_read_without_a_compiler():
    """Numbers beyond a byte, in plain Python too."""
    from deepgcn_seg.data import row_kernel

    text = b"123456.789 -20 3 4 5 255\n"
    rows, odd = np.empty((2, 6)), np.empty((2, 4), np.int64)
    found = row_kernel.parse_rows.py_func(np.frombuffer(text, np.uint8), row_kernel._POWERS, rows, odd)
    assert found == (1, 0)
    assert rows[0].tolist() == parse_text(text)[0][0].tolist() == [123456.789, -20, 3, 4, 5, 255]
