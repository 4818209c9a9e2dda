"""Batches on their way from a loader's worker to the loop: one block of shared memory, and each tensor's place in it.

PyTorch hands every tensor of a batch over by itself: copied into shared memory of its own, whose file descriptor is
asked for through a socket with a handshake. At thousands of segments a second that takes as long as making them, and
file descriptors run out. A parcel costs one block and one descriptor a batch, and one transfer to a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

ALIGNMENT = 64  # bytes: a cache line, and more than any dtype needs


class Parcel(NamedTuple):
    """A batch in one piece; its first field is a tensor, so that PyTorch pins it and accelerate moves it."""

    block: Tensor  # (bytes,) uint8
    contents: Any  # the batch, with a `_Place` for each of its tensors


@dataclass(frozen=True)
class _Place:
    begin: int  # bytes
    dtype: torch.dtype
    shape: tuple[int, ...]


class InParcels:
    """`collate`, whose batches leave a worker as parcels; in the loop's own process they stay what they are."""

    def __init__(self, collate: Callable[[Sequence[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, examples: Sequence[Any]) -> Any:
        batch = self.collate(examples)
        return batch if get_worker_info() is None else wrapped(batch)


def wrapped(batch: Any) -> Parcel:
    """The batch (tensors on the CPU, in tuples, lists and dicts) with all its tensors in one block of shared memory."""
    tensors: list[tuple[_Place, Tensor]] = []
    end = 0

    def place(tensor: Tensor) -> _Place:
        nonlocal end
        begin, end = end, end + -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        tensors.append((_Place(begin, tensor.dtype, tuple(tensor.shape)), tensor))
        return tensors[-1][0]

    contents = _replaced(batch, Tensor, place)
    block = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(max(end, 1)))
    for where, tensor in tensors:
        _view(block, where).copy_(tensor)
    return Parcel(block, contents)


def opened(batch: Any) -> Any:
    """The batch of a parcel, its tensors views of the block wherever that lies now; what is no parcel as it is."""
    if not isinstance(batch, Parcel):
        return batch
    return _replaced(batch.contents, _Place, lambda place: _view(batch.block, place))


def _view(block: Tensor, place: _Place) -> Tensor:
    size = place.dtype.itemsize * math.prod(place.shape)
    return block[place.begin : place.begin + size].view(place.dtype).view(place.shape)


def _replaced(tree: Any, kind: type, leaf: Callable[[Any], Any]) -> Any:
    """The tree with `leaf(part)` for each part of this kind."""
    if isinstance(tree, kind):
        return leaf(tree)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_replaced(part, kind, leaf) for part in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(_replaced(part, kind, leaf) for part in tree)
    if isinstance(tree, dict):
        return {name: _replaced(part, kind, leaf) for name, part in tree.items()}
    return tree
