"""A reader for the plain HDF5 files that Keras writes: old-style groups, contiguous arrays. No pickle, no libhdf5.

After the HDF5 File Format Specification, version 3.0. What it walks through:

    superblock 0 -> root group -> B-tree of names -> symbol table nodes -> object headers -> dataspace, datatype, layout
"""

from __future__ import annotations

import struct

import numpy as np

from audiogen.core.errors import UserError

DATASPACE, DATATYPE, LAYOUT, CONTINUATION, SYMBOL_TABLE = 0x01, 0x03, 0x08, 0x10, 0x11
MAX_DEPTH = 16  # of groups; a corrupt file may point a group at itself


def read_hdf5(data: bytes, *, what: str = "file") -> dict[str, np.ndarray]:
    """Every little-endian float array of the file: "group/group/name" -> array. Raises `UserError` where it is none."""
    if data[:8] != b"\x89HDF\r\n\x1a\n":
        raise UserError(f"{what} is not an HDF5 file")
    if data[8] != 0 or data[13:15] != b"\x08\x08":
        raise UserError(f"{what} is an HDF5 file of a newer layout (superblock {data[8]}); only version 0 is read here")
    arrays: dict[str, np.ndarray] = {}
    try:
        root = struct.unpack_from("<Q", data, 64)[0]  # object header address in the root's symbol table entry
        _walk(data, root, "", arrays, 0)
    except (struct.error, IndexError, ValueError, UnicodeDecodeError) as reason:
        if isinstance(reason, UserError):
            raise
        raise UserError(f"{what} is a corrupt HDF5 file ({reason}); copy it again") from None
    return arrays


def _walk(data: bytes, header: int, path: str, arrays: dict[str, np.ndarray], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError("groups are nested too deep")
    messages = _messages(data, header)
    if SYMBOL_TABLE in messages:
        tree, heap = struct.unpack_from("<QQ", data, messages[SYMBOL_TABLE])
        for name, child in _members(data, tree, _heap(data, heap)):
            _walk(data, child, f"{path}/{name}" if path else name, arrays, depth + 1)
    elif LAYOUT in messages:
        arrays[path] = _array(data, messages)


def _messages(data: bytes, header: int) -> dict[int, int]:
    """Message type -> where its body starts, for an object header of version 1 with its continuations."""
    version, count, size = struct.unpack_from("<BxHxxxxI", data, header)
    if version != 1:
        raise ValueError(f"object header of version {version}")
    found: dict[int, int] = {}
    blocks = [(header + 16, size)]
    while blocks and count > 0:
        at, left = blocks.pop(0)
        end = at + left
        while at + 8 <= end and count > 0:
            kind, length = struct.unpack_from("<HH", data, at)
            if kind == CONTINUATION:
                blocks.append(struct.unpack_from("<QQ", data, at + 8))
            found.setdefault(kind, at + 8)
            at += 8 + length
            count -= 1
    return found


def _heap(data: bytes, address: int) -> int:
    _expect(data, address, b"HEAP")
    return struct.unpack_from("<Q", data, address + 24)[0]


def _members(data: bytes, tree: int, names: int, depth: int = 0):
    """(name, object header address) of everything in a group, through its B-tree of symbol table nodes."""
    if depth > MAX_DEPTH:
        raise ValueError("the tree of a group is nested too deep")
    _expect(data, tree, b"TREE")
    level, used = struct.unpack_from("<xBH", data, tree + 4)
    for i in range(used):  # after the 24-byte head: key 0, child 0, key 1, child 1, ...
        child = struct.unpack_from("<Q", data, tree + 24 + 8 + 16 * i)[0]
        if level > 0:
            yield from _members(data, child, names, depth + 1)
            continue
        _expect(data, child, b"SNOD")
        for j in range(struct.unpack_from("<H", data, child + 6)[0]):
            name, header = struct.unpack_from("<QQ", data, child + 8 + 40 * j)
            start = names + name
            yield data[start : data.index(b"\0", start)].decode(), header


def _array(data: bytes, messages: dict[int, int]) -> np.ndarray:
    version, rank = struct.unpack_from("<BB", data, messages[DATASPACE])
    shape = struct.unpack_from(f"<{rank}Q", data, messages[DATASPACE] + (8 if version == 1 else 4))
    kind, order, size = struct.unpack_from("<BBxxI", data, messages[DATATYPE])
    if kind & 0x0F != 1 or order & 1 or size not in (2, 4, 8):
        raise ValueError(f"an array that is not little-endian floating point (class {kind & 0x0F}, {size} bytes)")
    version, layout, address, stored = struct.unpack_from("<BBQQ", data, messages[LAYOUT])
    if version != 3 or layout != 1:
        raise ValueError(f"an array stored in layout {layout} of version {version}, not contiguous")
    count = int(np.prod(shape, dtype=np.int64))
    if count * size != stored or address + stored > len(data):
        raise ValueError("an array reaches beyond the end of the file")
    return np.frombuffer(data, f"<f{size}", count, address).reshape(shape)


def _expect(data: bytes, address: int, signature: bytes) -> None:
    if data[address : address + 4] != signature:
        raise ValueError(f"{signature.decode()} missing at {address}")
