"""Read files of ``torch.save`` from any source as data, in no more memory than the file's size explains.

``weights_only=True`` keeps a file from running code. This module refuses what else could do harm: calls of further
constructors (``bytearray(10**12)``), keys whose hash never ends or crashes the process (tuples in tuples), records that
inflate, tensors that claim more memory than the file holds (strides of 0, one record under many tensors), and kinds of
tensors that our state dicts do not have. For this, it checks the pickle operation by operation before PyTorch reads it.
"""

import os
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..errors import UserError, first_line
from ..files import why_no_file

# The only names that a pickle of state dicts needs: functions that it may call, and kinds of storage.
_CALLED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
}
_STORAGES = {
    *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16")),
    *(f"torch {kind}Storage" for kind in ("Long", "Int", "Short", "Char", "Byte", "Bool")),
}
# Operations that put a plain value on the stack, and the kind of this value.
_PLAIN = {
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "UNICODE"), "text"),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG"), "integer"),
    **dict.fromkeys(("NEWTRUE", "NEWFALSE", "NONE", "BINFLOAT", "FLOAT"), "value"),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT"), "container"),
}
# Most values in the lists and mappings of a file. Our checkpoints have some thousands.
_MAX_VALUES = 1_000_000
# The format before PyTorch 1.6 has five pickles: magic number, version, byte order, content, keys of the storages.
_LEGACY_PICKLES = 5
_MAX_OPERATIONS = 20_000_000
# The last record of a zip file; the locator of a second such record, which large archives have; and the bytes of that.
_END_OF_ARCHIVE, _LOCATOR, _LARGE_RECORD = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL"), 56


def read_tensor_file(path: str | Path, legacy: bool = False) -> Any:
    """Return the content of a file of ``torch.save``, with tensors on the CPU that are copies of the file's.

    Args:
        legacy: whether to read the format before PyTorch 1.6, too.

    Raises:
        UserError: the file is missing, damaged or of another format, or has something that no state dict has.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: {why_no_file(path)}")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            if zipped:
                size = _check_archive(file, size)
            elif legacy:
                for _ in range(_LEGACY_PICKLES):
                    _check_pickle(file)
            else:
                raise ValueError("not a file of torch.save")
        # The file is mapped and not read, so that a record that claims more than the file holds takes no memory.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        return _owned(content, size)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"checkpoint {path}: damaged, or not a checkpoint ({first_line(error)})") from None


def _check_archive(file: IO[bytes], size: int) -> int:
    """Return how many bytes of tensors an archive holds.

    Raises:
        ValueError: its records are compressed, overlap or are there twice, or readers could disagree about them.
    """
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if archive.comment or archive.start_dir != _directory_offset(file, size):
            raise ValueError("the archive's directory is not where it says")
        if any(r.compress_type != zipfile.ZIP_STORED or r.file_size != r.compress_size for r in records):
            raise ValueError("its records are compressed")
        if sum(record.file_size for record in records) > size:
            raise ValueError("its records claim more than the file holds")
        names = [record.filename for record in records]
        pickles = [name for name in names if name.lower().endswith("data.pkl")]
        # PyTorch's reader does not distinguish upper and lower case.
        if len({name.lower() for name in names}) < len(names) or len(pickles) != 1:
            raise ValueError("not an archive of torch.save")
        with archive.open(pickles[0]) as pickle:
            _check_pickle(pickle)
        return sum(record.file_size for record in records if "/data/" in record.filename)


def _directory_offset(file: IO[bytes], size: int) -> int:
    """Return where a zip file's directory begins according to its last record; -1 if readers could disagree."""
    end = size - _END_OF_ARCHIVE.size
    file.seek(max(end - _LOCATOR.size, 0))
    signature, _, place, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if signature != b"PK\x06\x07":
        return _END_OF_ARCHIVE.unpack(file.read())[6]
    # Some readers use the record before this one, others the record that this one points to.
    if place != end - _LOCATOR.size - _LARGE_RECORD:
        return -1
    file.seek(place + _LARGE_RECORD - 8)
    return struct.unpack("<Q", file.read(8))[0]


def _check_pickle(pickle: IO[bytes]) -> None:
    """Raise an error if a pickle does anything but build state dicts: mappings by text or number, lists, tensors.

    The operations are followed with a stack of kinds in the place of values: ``text``, ``integer``, ``value``,
    ``container``, ``called``, ``storage kind``, or a tuple of kinds.
    """
    stack: list[Any] = []
    memo: dict[Any, Any] = {}

    def from_mark() -> list[Any]:
        place = len(stack) - 1 - stack[::-1].index("mark")
        values = stack[place + 1 :]
        del stack[place:]
        return values

    for number, (operation, argument, _) in enumerate(pickletools.genops(pickle)):
        name = operation.name
        if number > _MAX_OPERATIONS:
            raise ValueError(f"more than {_MAX_OPERATIONS:,} operations")
        if name in _PLAIN:
            stack.append(_PLAIN[name])
        elif name == "GLOBAL":
            if argument not in _CALLED | _STORAGES:
                raise ValueError(f"it names {argument}, which no state dict needs")
            stack.append("called" if argument in _CALLED else "storage kind")
        elif name == "MARK":
            stack.append("mark")
        elif name in ("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"):
            count = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}.get(name)
            parts = from_mark() if count is None else [stack.pop() for _ in range(count)][::-1]
            # An inner tuple is recorded as the word "tuple", because hashing deeply nested ones could take for ever.
            stack.append(tuple(part if isinstance(part, str) else "tuple" for part in parts))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name == "APPEND":
            stack.pop()
        elif name == "APPENDS":
            from_mark()
        elif name in ("SETITEM", "SETITEMS"):
            items = from_mark() if name == "SETITEMS" else [stack.pop() for _ in range(2)][::-1]
            if not set(items[::2]) <= {"text", "integer"}:
                raise ValueError("a mapping has keys that are neither text nor numbers")
        elif name == "REDUCE":
            arguments, called = stack.pop(), stack.pop()
            if called != "called" or not isinstance(arguments, tuple):
                raise ValueError("it calls what is not a part of tensors")
            stack.append("container")
        elif name == "BUILD":
            stack.pop()
        elif name == "BINPERSID":
            kind = stack.pop()
            if kind[:5] != ("text", "storage kind", "text", "text", "integer"):
                raise ValueError("a storage that is not described as torch.save does")
            stack.append("value")
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"its pickle uses {name}, which torch.save does not")


def _owned(content: Any, size: int) -> Any:
    """Return the content with a copy of every tensor; all copies together may take ``size`` bytes."""
    taken = values = 0
    copies: dict[Any, Any] = {}

    def own(value: Any) -> Any:
        nonlocal taken, values
        values += 1
        if values > _MAX_VALUES:
            raise ValueError(f"more than {_MAX_VALUES:,} values")
        if not isinstance(value, (Tensor, dict, list, tuple)):
            return value
        if isinstance(value, Tensor):
            if not _is_plain(value):
                raise ValueError(f"a tensor that is {value.layout} on {value.device}, not plain values")
            same: Any = (value.data_ptr(), value.dtype, value.shape, value.stride())
        else:
            same = id(value)
        if same in copies:
            return copies[same]
        if isinstance(value, Tensor):
            taken += value.numel() * value.element_size()
            if taken > size:
                raise ValueError("its tensors claim more than the file holds")
            result: Any = value.detach().clone(memory_format=torch.contiguous_format)
        elif isinstance(value, dict):
            result = {own(key): own(part) for key, part in value.items()}
        else:
            result = type(value)(map(own, value)) if type(value) in (list, tuple) else tuple(map(own, value))
        copies[same] = result
        return result

    return own(content)


def _is_plain(tensor: Tensor) -> bool:
    strided = tensor.layout is torch.strided and tensor.device.type == "cpu"
    return strided and type(tensor) in (Tensor, torch.nn.Parameter) and not tensor.is_quantized
