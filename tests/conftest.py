import os

import pytest
import torch

# Without a GPU the Triton kernels run step by step; this must be known before Triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from deepgcn_seg.data.prepare import prepare
from deepgcn_seg.data.synthetic import generate


def pytest_collection_modifyitems(items):
    # Slow ones first: one that began last would be waited for alone.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def raw_rooms(tmp_path_factory):
    """Six areas of one sparse synthetic room, in the raw Stanford layout."""
    return generate(tmp_path_factory.mktemp("rooms") / "raw", rooms_per_area=2, density=60)


@pytest.fixture(scope="session")
def store(raw_rooms, tmp_path_factory):
    return prepare(raw_rooms, tmp_path_factory.mktemp("rooms") / "store", described="tiny synthetic rooms")
