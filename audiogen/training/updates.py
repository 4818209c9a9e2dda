"""How gradients become an update: through accelerate (one process, DDP, FSDP2), or by DeepSpeed (zero.py)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Player
from audiogen.core.rng import SampleRng
from audiogen.training.config import TrainConfig
from audiogen.training.state import whole


class Turn(nn.Module):
    """A player's loss as a forward pass, so that DDP, FSDP2 and autocast see it.

    cast: the type of the arithmetic inside; None where accelerate sees to it.
    """

    _no_split_modules: list[str]  # accelerate's name for the classes that FSDP2 shards and gathers one by one

    def __init__(self, player: Player, cast: torch.dtype | None = None) -> None:
        super().__init__()
        self.module = player.module
        self._loss, self._cast = player.loss, cast
        self._no_split_modules = sorted({type(block).__name__ for block in blocks(player.module)})

    def forward(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        if self._cast is None:
            return self._loss(batch, rng)
        with torch.autocast(batch.ids.device.type, dtype=self._cast):
            return self._loss(batch, rng)


def blocks(model: nn.Module) -> list[nn.Module]:
    """The layers of a stack: members of a list that have modules of their own. Smaller ones stay whole: a layer may
    use its convolutions' weights without calling them, as the fused kernels do."""
    lists = [part for part in model.modules() if isinstance(part, (nn.ModuleList, nn.Sequential))]
    return [member for part in lists for member in part
            if any(True for _ in member.children()) and type(member) not in (nn.ModuleList, nn.Sequential)]


class Updates:
    """accelerate's way. Every process calls every method."""

    can_repeat = True  # whether a backward pass that failed may be done again
    cast: torch.dtype | None = None  # the type of the arithmetic, where accelerate does not see to it

    def __init__(self, accelerator: Any, config: TrainConfig, agreed: Callable[[bool], bool]) -> None:
        """agreed: true on every process where it is true on one."""
        self.accelerator, self.config, self.agreed = accelerator, config, agreed

    def prepare(self, player: Player, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        return self.accelerator.prepare(Turn(player, self.cast), optimizer)

    def micro(self, turn: nn.Module, last: bool) -> AbstractContextManager:
        """Around forward and backward of one micro-batch: gradients travel with the last one only."""
        return nullcontext() if last else self.accelerator.no_sync(turn)

    def backward(self, turn: nn.Module, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def step(self, turn: nn.Module, optimizer: Any, loss: Tensor) -> tuple[Tensor, bool]:
        """Clip and apply -> (norm of the gradient, whether something was not finite; then nothing has changed).
        loss: what was logged of it."""
        scaler = self.accelerator.scaler
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = whole(torch.as_tensor(self.accelerator.clip_grad_norm_(parameters, self.config.clip)).detach())
        # With fp16 a gradient that overflows is how the loss scale is found, and the scaler skips it by itself.
        finite = torch.isfinite(loss) & (torch.isfinite(norm) | (scaler is not None))
        bad = self.agreed(not bool(finite))
        if not bad or scaler is not None:
            optimizer.step()
        self.clear(optimizer)
        return norm, bad

    def clear(self, optimizer: Any) -> None:
        """Now, so that no player's gradients wait through the other's turn."""
        optimizer.zero_grad(set_to_none=True)

    def moments(self, turn: nn.Module, optimizer: Any) -> Any:
        """What a state is written from and read into: `param_groups`, `state_dict`, `load_state_dict`."""
        return optimizer.optimizer


class Sharded(Updates):
    """FSDP2. Weights are float32 wherever they lie, and arithmetic is cast as under DDP: accelerate's own policy would
    cast batches too, and a log-mel of bfloat16 is off by some percent."""

    def __init__(self, accelerator: Any, config: TrainConfig, agreed: Callable[[bool], bool]) -> None:
        super().__init__(accelerator, config, agreed)
        plugin = accelerator.state.fsdp_plugin
        if plugin.fsdp_version != 2:
            raise UserError("the first version of FSDP flattens weights, which states are not written from: set "
                            "fsdp_version to 2, as in recipes/launch/fsdp.yaml")
        self.cast = cast_of(accelerator)
        plugin.mixed_precision_policy = None


def cast_of(accelerator: Any) -> torch.dtype | None:
    """What `Updates.cast` is for the precision that was asked for."""
    if accelerator.mixed_precision not in ("no", "bf16"):
        raise UserError(f"precision {accelerator.mixed_precision} with {accelerator.distributed_type.value}: choose "
                        "bf16 or fp32")
    return torch.bfloat16 if accelerator.mixed_precision == "bf16" else None


def updates_for(
    accelerator: Any, config: TrainConfig, players: list[Player], agreed: Callable[[bool], bool]
) -> Updates:
    """The way that the launch file asks for."""
    kind = str(accelerator.distributed_type.value)
    if kind in ("FSDP", "DEEPSPEED") and len(players) > 1:
        raise UserError(
            f"{kind} shards models of one player; this one has {len(players)} (an adversarial training), which look "
            "into each other: run it under DDP (recipes/launch/ddp.yaml)"
        )
    if kind == "DEEPSPEED":
        from audiogen.training.zero import Zero

        return Zero(accelerator, config, agreed)
    return (Sharded if kind == "FSDP" else Updates)(accelerator, config, agreed)
