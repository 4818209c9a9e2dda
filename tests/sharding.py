"""FSDP2 in the test's own process: one process of one, with everything that sharding does to a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from audiogen.core.interfaces import Batch, Player
from audiogen.core.rng import SampleRng
from audiogen.training.updates import Turn


@contextmanager
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def learned(player: Player, batch: Batch, *, sharded: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """-> (loss, gradients by name), as a whole or sharded as accelerate does it: the blocks, then the rest."""
    turn = Turn(player)
    if sharded:
        mesh = init_device_mesh("cpu", (1,))
        for module in reversed(list(turn.modules())):
            if type(module).__name__ in turn._no_split_modules:
                fully_shard(module, mesh=mesh)
        fully_shard(turn, mesh=mesh)
    loss = turn(batch, SampleRng(0, ids=batch.ids))["loss"]
    loss.backward()
    gradients = {name: value.grad for name, value in player.module.named_parameters() if value.grad is not None}
    return loss.detach(), {name: value.full_tensor() if sharded else value for name, value in gradients.items()}


def assert_the_same_sharded(build, batch: Batch) -> None:
    """build: -> a player, the same at each call."""
    whole = learned(build(), batch, sharded=False)
    with one_process():
        sharded = learned(build(), batch, sharded=True)
    torch.testing.assert_close(sharded, whole, rtol=1e-5, atol=1e-6)
