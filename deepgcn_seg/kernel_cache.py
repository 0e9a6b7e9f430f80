"""Compiled (numba) kernels, kept on disk between processes where there is a safe place for them.

numba alone would keep a kernel beside its source or below HOME, and end the process where it can write to neither,
where the disk is full or a kept file is damaged. It would compile a kernel again when its own file changes, but not
when a file it takes code from does, as after an update that touches only one of them.
"""

import hashlib
import logging
import pickle
import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding as llvm
from numba.core import sigutils
from numba.core.caching import CompileResultCacheImpl, FunctionCache, InTreeCacheLocator
from numba.core.codegen import get_host_cpu_features
from numba.core.serialize import dumps

from .cache_folder import cache_folder, is_private, remove_unused
from .errors import UserError

log = logging.getLogger(__name__)
# numba's settings, which it reads from the environment: no type checker knows them.
config: Any = numba.config


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator: ``numba.njit`` without the GIL, with the result kept on disk if that is possible.

    Args:
        options: of ``njit``.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(nogil=True, **options)(function)
        if not config.DISABLE_JIT and kernel_folder():
            # Set the cache, as `cache=True` does. It raises RuntimeError without a source file, as in a zip archive.
            with suppress(RuntimeError):
                dispatcher._cache = _Cache(function)
        return dispatcher

    return compiled


@lru_cache(maxsize=1)
def kernel_folder() -> Path | None:
    """Return the folder for kernels compiled from these sources, or None if none can be kept.

    It is below NUMBA_CACHE_DIR if that is set: whoever sets it vouches for who can write there.
    """
    name = f"kernels-{digest(Path(__file__).parent)}"
    if config.CACHE_DIR:
        folder = Path(config.CACHE_DIR).absolute() / "deepgcn_seg" / name
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            remove_unused(folder)
            return folder
    if found := cache_folder(name):
        return found
    _log_not_kept("neither the user's cache directory nor the temporary one can be used")
    return None


def digest(sources: Path) -> str:
    """Return a name of all that decides what a kernel is compiled to: sources, compiler, its settings, processor."""
    settings = numba.__version__, int(config.OPT), config.BOUNDSCHECK, config.CPU_NAME or llvm.get_host_cpu_name()
    content = hashlib.sha256(repr((*settings, compiled_features())).encode())
    # numba looks at a kernel's own file only: these are the files that kernels take code from.
    for source in sorted([*sources.glob("*.py"), *sources.glob("ops/cpu/*.py")]):
        content.update(source.name.encode() + source.read_bytes())
    return content.hexdigest()[:16]


def compiled_features() -> str:
    """Return the features that numba compiles for, as ``+avx2,-avx512f``: this processor's, or those of its settings.

    Raises:
        UserError: NUMBA_CPU_FEATURES is not of that form; LLVM would end the process.
    """
    if config.CPU_FEATURES is None:
        return get_host_cpu_features()
    if not re.fullmatch(r"([+-][^,\s]+(,[+-][^,\s]+)*)?", config.CPU_FEATURES):
        raise UserError(f"NUMBA_CPU_FEATURES={config.CPU_FEATURES}: must be like +avx2,-avx512f")
    return config.CPU_FEATURES


class _Locator(InTreeCacheLocator):
    """A locator that has numba keep a function's kernels in :func:`kernel_folder`."""

    def __init__(self, py_func: Callable[..., Any], py_file: str):
        super().__init__(py_func, py_file)
        self._cache_path = str(kernel_folder())

    def ensure_cache_path(self) -> None:
        """Make the folder, which may have been removed since."""
        folder = Path(self._cache_path)
        if config.CACHE_DIR and folder.is_relative_to(Path(config.CACHE_DIR).absolute()):
            folder.mkdir(parents=True, exist_ok=True)
        elif not is_private(folder):
            raise PermissionError(f"{folder} cannot be used, or not by this user alone")


class _Implementation(CompileResultCacheImpl):
    """A store of kernels with checksums, because damaged machine code could crash or compute something else."""

    _locator_classes = [_Locator]  # noqa: RUF012 - as numba has it

    def reduce(self, cres: Any) -> tuple[bytes, bytes]:
        """Return what is kept of a kernel."""
        content = dumps(super().reduce(cres))
        return hashlib.sha256(content).digest(), content

    def rebuild(self, target_context: Any, kept: tuple[bytes, bytes]) -> Any:
        """Return the kernel, given what :meth:`reduce` returned for it."""
        checksum, content = kept
        if hashlib.sha256(content).digest() != checksum:
            raise ValueError("a kept kernel was changed")
        return super().rebuild(target_context, pickle.loads(content))


class _Cache(FunctionCache):
    """numba's cache of one function, except that errors of the disk do not end the process."""

    _impl_class = _Implementation

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the kept kernel of that signature, or None if there is none that can be read."""
        try:
            self._impl.locator.ensure_cache_path()
            found = super().load_overload(sig, target_context)
        except OSError:
            return None
        # A damaged pickle can raise any error. Then compile the kernel again.
        except Exception:
            with suppress(OSError):
                self.flush()
            return None
        # If two processes save kernels at once, the index of one can name a file of the other.
        same = found is not None and tuple(found.signature.args) == tuple(sigutils.normalize_signature(sig)[0])
        return found if same else None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a kernel, if that is possible."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _log_not_kept(str(error))


@lru_cache(maxsize=1)
def _log_not_kept(reason: str) -> None:
    log.warning(
        "compiled kernels are not kept (%s): each process compiles them anew; NUMBA_CACHE_DIR can name a folder",
        reason,
    )
