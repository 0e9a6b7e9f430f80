import os

# Workers share the cores: threads that outnumber them would wait for each other at every operation. Known before
# PyTorch is imported, and to the processes that tests start. Tests that are about threads set their number themselves.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ and "OMP_NUM_THREADS" not in os.environ:
    os.environ["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]), 1))

import numpy
import pytest
import torch
from hypothesis import settings

# Without a GPU the Triton kernels run step by step; this must be known before Triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from deepgcn_seg.data.build_store import prepare
from deepgcn_seg.data.synthetic_rooms import generate

# Every test run tries the same examples, so that a failure is of the change at hand; a search for new ones is asked for.
settings.register_profile("same each time", derandomize=True)
if "FUZZ_EXAMPLES" not in os.environ:
    settings.load_profile("same each time")


def pytest_collection_modifyitems(items):
    # Slow ones first: one that began last would be waited for alone.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def triton_kernels():
    """The GPU kernels run: on a GPU, or step by step in Triton's interpreter."""
    triton = pytest.importorskip("triton", reason="no Triton on this platform")
    if not torch.cuda.is_available() and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7):
        # Until Triton 3.7, its interpreter takes arrays of one number for numbers, which NumPy 2.4 no longer does.
        try:
            int(numpy.zeros(1))
        except TypeError:
            pytest.skip(f"the interpreter of Triton {triton.__version__} does not work with NumPy {numpy.__version__}")


@pytest.fixture
def set_threads():
    """``torch.set_num_threads``, for the time of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def limits_refused(tmp_path_factory, monkeypatch):
    """Processes that a test starts may not limit their memory, as on macOS."""
    folder = tmp_path_factory.mktemp("limits")
    (folder / "sitecustomize.py").write_text(
        "import resource\n"
        "def refuse(*_): raise ValueError('current limit exceeds maximum limit')\n"
        "resource.setrlimit = refuse\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


@pytest.fixture(scope="session")
def raw_rooms(tmp_path_factory):
    """Six areas of one sparse synthetic room, in the raw Stanford layout."""
    return generate(tmp_path_factory.mktemp("rooms") / "raw", rooms_per_area=2, density=60)


@pytest.fixture(scope="session")
def store(raw_rooms, tmp_path_factory):
    return prepare(raw_rooms, tmp_path_factory.mktemp("rooms") / "store", described="tiny synthetic rooms")
