"""GPUs that are not there: tensors stay on the CPU, and a table says on which device each is pretended to be.

An operation of tensors on different devices is an error, as it is on a GPU. Kernels do not run: their arguments are
checked, and PyTorch's formulation gives their results. ``pretended_gpus`` is a fixture for what else PyTorch is asked.
"""

from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU = torch.device("cpu")
# Numbers of GPUs, and what a grid of programs may have in each dimension.
COUNT, GRID = 2, (2**31 - 1, 65535, 65535)
FACTORIES = ("arange", "empty", "full", "ones", "rand", "randint", "randn", "tensor", "zeros")
METHODS = ("new_empty", "new_full", "new_ones", "new_tensor", "new_zeros")
LIKE = ("empty_like", "full_like", "ones_like", "rand_like", "zeros_like")
# What may read tensors of two devices. An index may be on the CPU.
COPIES, INDEXING = ("aten::copy_", "aten::_to_copy"), ("aten::index", "aten::index_put_", "aten::_index_put_impl_")
# Older versions of PyTorch write the gradient of a sort into zeros that they made beneath what is seen here.
SCATTERED = "aten::scatter"


class PretendedGpus(TorchDispatchMode):
    """The devices of all tensors.

    Attributes:
        current: the GPU that ``cuda`` stands for. launches: names of kernels. asked: GPUs whose memory or end of work
            was asked for, or whose random state.
    """

    def __init__(self) -> None:
        super().__init__()
        # By the address of a storage: a reference that keeps the address from being used again, and the device.
        self._devices: dict[int, tuple[StorageWeakRef, torch.device]] = {}
        self._target: torch.device | None = None
        self.current = 0
        self.launches: list[str] = []
        self.asked: set[torch.device] = set()

    def of(self, tensor: torch.Tensor) -> torch.device:
        """Return the device of a tensor."""
        if tensor.is_meta:
            return torch.device("meta")
        return self._devices.get(tensor.untyped_storage()._cdata, (None, CPU))[1]

    def named(self, device: Any) -> torch.device:
        """Return a device with its number."""
        device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        return torch.device("cuda", self.current) if device.type == "cuda" and device.index is None else device

    def put(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Say that a tensor is on a device."""
        if not tensor.is_meta:
            storage = tensor.untyped_storage()
            known, _ = self._devices.get(storage._cdata, (None, CPU))
            self._devices[storage._cdata] = (known or StorageWeakRef(storage), device)
        return tensor

    @contextmanager
    def onto(self, device: torch.device):
        """Have operations that make tensors put them on a device."""
        before, self._target = self._target, device
        try:
            yield
        finally:
            self._target = before

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, operation._schema.name
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        places = [(tensor, self.of(tensor)) for tensor in tensors]
        device = next((place for _, place in places if place.type == "cuda"), CPU)
        if name not in COPIES:
            for number, (tensor, place) in enumerate(places):
                is_number = place == CPU and tensor.dim() == 0 and "_foreach" not in name
                is_index = place == CPU and number > 0 and name in INDEXING and not tensor.is_floating_point()
                is_new = number == 0 and name == SCATTERED
                if place != device and place.type != "meta" and not (is_number or is_index or is_new):
                    where = ", ".join(f"{tuple(tensor.shape)} on {place}" for tensor, place in places)
                    raise RuntimeError(f"{name}: tensors on different devices: {where}")
        out = operation(*args, **kwargs)
        makes = not tensors or name == "aten::_to_copy" or "::new_" in name or name.endswith("_like")
        device = self._target if makes and self._target is not None else device
        given = {tensor.untyped_storage()._cdata for tensor in tensors}
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in given:
                self.put(leaf, device)
        return out

    def launch(self, kernel, *arguments, grid, **settings) -> None:
        """Check what a kernel of Triton is launched with."""
        for name, value in zip(kernel.arg_names, arguments):
            if isinstance(value, torch.Tensor):
                assert self.of(value) == self.named("cuda"), f"{kernel.__name__}: {name} is on {self.of(value)}"
                assert value.is_contiguous(), f"{kernel.__name__}: {name} is not contiguous"
                assert value.dtype != torch.bool, f"{kernel.__name__}: Triton has no pointers to truth values"
        assert all(0 < size <= most for size, most in zip(grid, GRID)), f"{kernel.__name__}: a grid of {grid}"
        assert "enable_fp_fusion" in settings, f"{kernel.__name__}: its rounding depends on the version of Triton"
        assert len(arguments) + len(settings.keys() & set(kernel.arg_names)) == len(kernel.arg_names)
        self.launches.append(kernel.__name__)


@pytest.fixture
def pretended_gpus(monkeypatch):
    """Two GPUs, on which every kernel of Triton can run."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    pytest.importorskip("triton", reason="no Triton on this platform")
    gpus = PretendedGpus()
    # PyTorch lists its factories once, at the first default device, and must not list the pretended ones.
    _device_constructors()
    _pretend_tensors(gpus, monkeypatch)
    _pretend_cuda(gpus, monkeypatch)
    _pretend_kernels(gpus, monkeypatch)
    with gpus:
        yield gpus


def _pretend_tensors(gpus: PretendedGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def move(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        device, dtype, copy = kwargs.get("device"), kwargs.get("dtype", x.dtype), kwargs.get("copy", False)
        for argument in args:
            if isinstance(argument, torch.dtype):
                dtype = argument
            elif isinstance(argument, torch.Tensor):
                device, dtype = gpus.of(argument), argument.dtype
            elif isinstance(argument, (str, torch.device)):
                device = argument
        device = gpus.of(x) if device is None else gpus.named(device)
        if device == gpus.of(x) and dtype in (None, x.dtype) and not copy:
            return x
        if "meta" in (device.type, gpus.of(x).type):
            return as_before(x, *args, **kwargs)
        with gpus.onto(device):
            return torch.ops.aten._to_copy.default(x, dtype=dtype or x.dtype)

    def numpy(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        assert gpus.of(x) == CPU, "NumPy cannot read the memory of a GPU"
        return numpy_as_before(x, *args, **kwargs)

    def deepcopied(x: torch.Tensor, memo: dict) -> torch.Tensor:
        return gpus.put(deepcopy_as_before(x, memo), gpus.of(x))

    def as_tensor(values: Any, dtype: Any = None, device: Any = None) -> torch.Tensor:
        return move(values if isinstance(values, torch.Tensor) else tensor_of(values), dtype, device=device)

    as_before, numpy_as_before, deepcopy_as_before = torch.Tensor.to, torch.Tensor.numpy, torch.Tensor.__deepcopy__
    tensor_of = torch.as_tensor
    monkeypatch.setattr(torch, "as_tensor", as_tensor)
    for name, value in {
        "device": property(gpus.of),
        "is_cuda": property(lambda x: gpus.of(x).type == "cuda"),
        "get_device": lambda x: gpus.of(x).index if gpus.of(x).type == "cuda" else -1,
        "to": move,
        "cpu": lambda x: move(x, CPU),
        "cuda": lambda x, device="cuda": move(x, device),
        "numpy": numpy,
        "__deepcopy__": deepcopied,
        "pin_memory": lambda x, *_: x,
    }.items():
        monkeypatch.setattr(torch.Tensor, name, value)
    for owner, names in ((torch, (*FACTORIES, *LIKE)), (torch.Tensor, METHODS)):
        for name in names:
            monkeypatch.setattr(owner, name, _on_its_device(gpus, getattr(owner, name)))


def _on_its_device(gpus: PretendedGpus, make: Callable) -> Callable:
    def made(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        if device is None:
            out = make(*args, **kwargs)
            # Operations that copy values in are not seen.
            return gpus.put(out, gpus.of(args[0])) if make.__name__ == "new_tensor" else out
        device = gpus.named(device)
        if device.type != "cuda":
            kwargs["device"] = device
        with gpus.onto(device):
            out = make(*args, **kwargs)
        return gpus.put(out, device) if device.type == "cuda" else out

    return made


def _pretend_cuda(gpus: PretendedGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def exchange(device: int) -> int:
        before = gpus.current
        gpus.current = device if device >= 0 else before
        return before

    def ask(device: Any = None) -> int:
        gpus.asked.add(gpus.named("cuda" if device is None else device))
        return 0

    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: COUNT,
        "current_device": lambda: gpus.current,
        "set_device": lambda device: exchange(gpus.named(device).index),
        "_exchange_device": exchange,
        "_maybe_exchange_device": exchange,
        "get_device_name": lambda device=None: "Pretended GPU",
        "get_rng_state": lambda device="cuda": (ask(device), torch.zeros(16, dtype=torch.uint8))[1],
        "set_rng_state": lambda state, device="cuda": ask(device),
        "empty_cache": lambda: None,
        "is_current_stream_capturing": lambda: False,
        **dict.fromkeys(("synchronize", "reset_peak_memory_stats", "max_memory_allocated", "memory_allocated"), ask),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    # From PyTorch 2.14 on, optimisers ask the accelerator's stream whether it is capturing a graph.
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    # What autocast does on a GPU is done on the CPU.
    on_cpu = lambda device: "cpu" if device == "cuda" else device
    begin, enabled, dtype = torch.autocast.__init__, torch.is_autocast_enabled, torch.get_autocast_dtype

    def autocast(self: torch.autocast, device_type: str, *args: Any, **kwargs: Any) -> None:
        begin(self, on_cpu(device_type), *args, **kwargs)

    monkeypatch.setattr(torch.autocast, "__init__", autocast)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type="cuda": enabled(on_cpu(device_type)))
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device_type: dtype(on_cpu(device_type)))


def _pretend_kernels(gpus: PretendedGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.interpreter import InterpretedFunction

    from deepgcn_seg.ops import backends, reference
    from deepgcn_seg.ops.gpu import edges, search

    def checked(module: Any, name: str) -> Callable:
        kernels, plain = getattr(module, name), getattr(reference, name)

        def call(*arguments: Any) -> Any:
            found, expected = kernels(*arguments), plain(*arguments)
            for ours, theirs in zip(tree_leaves(found), tree_leaves(expected), strict=True):
                if theirs is not None:
                    assert (ours.shape, ours.dtype, ours.device) == (theirs.shape, theirs.dtype, theirs.device)
                    ours.copy_(theirs)
            return found

        return call

    monkeypatch.setattr(
        InterpretedFunction, "__getitem__", lambda kernel, grid: partial(gpus.launch, kernel, grid=grid)
    )
    for module, names in ((search, ("search",)), (edges, backends.Operations._fields[1:])):
        for name in names:
            monkeypatch.setattr(module, name, checked(module, name))
    backends._operations.cache_clear()
    monkeypatch.setattr(backends, "triton_available", lambda device=None: True)
    monkeypatch.setattr(backends, "_operations", backends._operations.__wrapped__)
