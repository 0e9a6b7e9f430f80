"""Files of ``torch.save`` that come from anywhere: read as data, within the size they have.

``weights_only=True`` keeps a file from running code. What it does not keep a file from, this module does: naming
further constructors (``bytearray(10**12)``), packing records that inflate, tensors that claim more memory than the
file holds (strides of 0, one record under many tensors), and kinds of tensors that no state dict of ours has.
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

# All that a pickle of state dicts needs to name; a file that names more is refused.
_NAMES = {
    "collections OrderedDict",
    "collections Counter",
    "torch Size",
    "torch device",
    "torch.nn.parameter Parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16")),
    *(f"torch {kind}Storage" for kind in ("Long", "Int", "Short", "Char", "Byte", "Bool")),
}
# Values in the lists and mappings of a file; a checkpoint of ours has some thousands.
_MAX_VALUES = 1_000_000
# A pickle of the format before PyTorch 1.6 is preceded by three others: magic number, version, byte order.
_LEGACY_PICKLES = 4
_END_OF_ARCHIVE, _END_OF_LARGE_ARCHIVE = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL")


def read_tensor_file(path: str | Path, legacy: bool = False) -> Any:
    """Return what a file of ``torch.save`` holds, its tensors on the CPU and in memory of their own.

    Args:
        legacy: read the format before PyTorch 1.6 too.

    Raises:
        UserError: no such file, damaged, of another format, or it names, claims or holds what no state dict does.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            zipped = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            if zipped:
                size = _check_archive(file, size)
            elif legacy:
                for _ in range(_LEGACY_PICKLES):
                    _check_names(file)
            else:
                raise ValueError("not a file of torch.save")
        # Mapped, not read: a record that claims more than the file holds ends here and takes no memory.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        return _owned(content, size)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"checkpoint {path}: damaged, or not a checkpoint ({first_line(error)})") from None


def _check_archive(file: IO[bytes], size: int) -> int:
    """Return how many bytes of tensors an archive holds.

    Raises:
        ValueError: its records inflate, overlap or are there twice, or two readers would read it differently.
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
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(set(names)) < len(names) or len(pickles) != 1:
            raise ValueError("not an archive of torch.save")
        with archive.open(pickles[0]) as pickle:
            _check_names(pickle)
        return sum(record.file_size for record in records if "/data/" in record.filename)


def _directory_offset(file: IO[bytes], size: int) -> int:
    """Return where the end of a zip file says that its directory begins."""
    file.seek(max(size - _END_OF_ARCHIVE.size, 0))
    offset = _END_OF_ARCHIVE.unpack(file.read())[6]
    if offset != 0xFFFFFFFF:
        return offset
    file.seek(size - _END_OF_ARCHIVE.size - _END_OF_LARGE_ARCHIVE.size)
    place = _END_OF_LARGE_ARCHIVE.unpack(file.read(_END_OF_LARGE_ARCHIVE.size))[2]
    file.seek(place + 48)
    return struct.unpack("<Q", file.read(8))[0]


def _check_names(pickle: IO[bytes]) -> None:
    """Refuse a pickle that names anything but what state dicts are made of."""
    for operation, argument, _ in pickletools.genops(pickle):
        if operation.name == "GLOBAL" and argument not in _NAMES:
            raise ValueError(f"it names {argument}, which no state dict needs")
        if operation.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            raise ValueError(f"its pickle uses {operation.name}, which torch.save does not")


def _owned(content: Any, size: int) -> Any:
    """Return the content with every tensor copied out of the file, each once and within ``size`` bytes together."""
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
