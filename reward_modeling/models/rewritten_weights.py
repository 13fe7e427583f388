"""A safetensors file with other values for some of its tensors, written from its bytes.

The others are copied a few megabytes at a time: no model, and no file of one, has to fit into memory. The format: eight
bytes that say how long the header is; the header, JSON that gives type, shape and place of each tensor; the tensors.
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

METADATA = "__metadata__"
ALIGNMENT = 8  # bytes, of the first tensor
PART = 2**24  # bytes that are copied at once


def copy_with(source: Path, target: Path, values: Mapping[str, torch.Tensor]) -> int:
    """Write `target`, which is `source` but for these tensors in float32.

    Returns:
        The bytes by which its tensors take more than before; below 0 less.
    """
    with source.open("rb") as old:
        (length,) = struct.unpack("<Q", old.read(8))
        header = json.loads(old.read(length))
        new_header = {METADATA: header.pop(METADATA)} if METADATA in header else {}
        # the widest types first, as the library has it: each tensor then begins at a multiple of its own width
        order = sorted(header, key=lambda name: (-_width(header[name], name in values), header[name]["data_offsets"]))
        end = 0
        for name in order:
            begin, end = end, end + (values[name].numel() * 4 if name in values else _size(header[name]))
            new_header[name] = header[name] | {"data_offsets": [begin, end]}
            if name in values:
                new_header[name] |= {"dtype": "F32", "shape": list(values[name].shape)}
        written = json.dumps(new_header, separators=(",", ":"), ensure_ascii=False).encode()
        written += b" " * (-len(written) % ALIGNMENT)
        with target.open("wb") as new:
            new.write(struct.pack("<Q", len(written)) + written)
            for name in order:
                if name in values:
                    new.write(values[name].to(torch.float32).contiguous().numpy().astype("<f4").tobytes())
                else:
                    old.seek(8 + length + header[name]["data_offsets"][0])
                    _copy(old, new, _size(header[name]))
    return end - sum(map(_size, header.values()))


def _size(entry: Mapping[str, Any]) -> int:
    begin, end = entry["data_offsets"]
    return end - begin


def _width(entry: Mapping[str, Any], becomes_float32: bool) -> int:
    """Bytes of one number; 0 for a type of less than one."""
    return 4 if becomes_float32 else _size(entry) // max(1, math.prod(entry["shape"]))


def _copy(old: BinaryIO, new: BinaryIO, count: int) -> None:
    while count:
        part = old.read(min(PART, count))
        if not part:
            raise EOFError("the file ends before its last tensor")
        new.write(part)
        count -= len(part)
