"""One set of clips over many processes (`accelerate launch`, `torchrun`): each embeds a part, all get the sum."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from audiogen.core.errors import UserError
from evaluation.moments import GroupedMoments, Moments, add_up
from evaluation.summary import Summary


@contextmanager
def joined() -> Iterator[tuple[int, int]]:
    """(this process, all of them) of the group that the launcher's environment describes; (0, 1) without one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or dist.is_initialized():
        yield (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank(), world
    finally:
        dist.destroy_process_group()


def together(make: Callable[[], Summary]) -> Summary:
    """`make` on every process -> the sum, on every process. What goes wrong on one stops them all."""
    found, error = None, ""
    try:
        found = make()
    except UserError as reason:
        error = str(reason)
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        if found is None:
            raise UserError(error)
        return found
    errors: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(errors, error)
    if any(errors):
        raise UserError(next(e for e in errors if e))
    moments = all_reduced(found.moments)
    rest: list[Summary | None] = [None] * dist.get_world_size()
    dist.all_gather_object(rest, Summary(found.made_by, GroupedMoments(found.dim), found.sample.cut(), found.clips,
                                         found.counts, found.rejects))
    total = rest[0]
    for other in rest[1:]:
        total = total.merge(other)
    total.moments = moments
    return total


def all_reduced(moments: GroupedMoments) -> GroupedMoments:
    """The moments of all processes' clips, the same bytes on each of them.

    Counts, means and scatters are added as Chan, Golub and LeVeque do, not as raw sums of squares, which would lose
    digits where means are large. A group at a time, so that memory holds (dim, dim) once for every process.
    """
    total = GroupedMoments(len(moments.parts[0].mean), groups=len(moments.parts))
    clips = torch.tensor(moments.clips)
    dist.all_reduce(clips)
    total.clips = clips.tolist()
    for index, part in enumerate(moments.parts):
        gathered = [torch.empty(_packed(part).shape, dtype=torch.float64) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, _packed(part))
        total.parts[index] = add_up([_unpacked(values, len(part.mean)) for values in gathered])
    return total


def _packed(part: Moments) -> Tensor:
    return torch.cat([torch.tensor([part.n], dtype=torch.float64), part.mean, part.scatter.flatten()])


def _unpacked(values: Tensor, dim: int) -> Moments:
    return Moments(int(values[0]), values[1 : dim + 1], values[dim + 1 :].reshape(dim, dim))
