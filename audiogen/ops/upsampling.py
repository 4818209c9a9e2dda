"""Conditioning from frame rate to steps, as a linear map along time that all channels share.

Such a map commutes with a 1x1 convolution over channels. The 1x1 can therefore run at frame rate, and an op that adds
the conditioning in its inner loop can make the step it needs from a few frames, instead of reading (batch, channels,
time) numbers that somebody wrote before. The map is banded: a step reads a few frames in a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Upsampling(NamedTuple):
    """c_up[..., t] = sum_j weights[t, j] * c[..., first[t] + j], with first[t] >= 0 and first[t] + taps <= frames.

    `None` in its place means: frames divides time, and each frame is held for time / frames steps.
    """

    first: Tensor  # (time,) int32: the first frame that step t reads
    weights: Tensor  # (time, taps), floating point; may require a gradient

    @classmethod
    def of(
        cls, stretch: Callable[[Tensor], Tensor], frames: int, *, reach: int, device: torch.device | str = "cpu"
    ) -> Upsampling:
        """The band of `stretch`: a linear map (1, channels, frames) -> (1, channels, time) that treats channels alike.

        reach: frames on either side of its own, floor(t * frames / time), that a step can read. Where `stretch` reads
        further, the band is wrong. Gradients flow from the weights into what `stretch` is made of.
        """
        if frames < 1 or reach < 0:
            raise ValueError(f"frames={frames} must be positive and reach={reach} not negative")
        taps = frames if frames <= 2 * reach else 2 * reach + 1  # no min(): it would be unknown in an exported graph
        # Combs: the frames that one of them sets lie `taps` apart, so a step reads at most one of each comb.
        number = torch.arange(frames, device=device)
        combs = (number % taps == torch.arange(taps, device=device)[:, None]).float()[None]  # (1, taps, frames)
        response = stretch(combs)[0]                                                          # (taps, time)
        time = response.shape[1]
        own = torch.arange(time, device=device) * frames // time
        first = (own - reach).clamp(0, frames - taps)
        comb = (first[:, None] + torch.arange(taps, device=device)) % taps                    # (time, taps)
        return cls(first.int(), response.T.gather(1, comb))


def upsample(condition: Tensor, first: Tensor | None, weights: Tensor | None, time: int) -> Tensor:
    """condition (batch, channels, frames) -> (batch, channels, time); `first` and `weights` as in `Upsampling`."""
    if first is None or weights is None:
        return condition.repeat_interleave(time // condition.shape[2], dim=2)
    frames = condition.shape[2]
    if condition.device.type == "cpu" and time % frames == 0 and not torch.compiler.is_compiling():
        own = first.view(frames, -1)
        if bool((own == own[:, :1]).all()):  # as `Upsampling.of` makes them: one small matrix product a frame
            read = own[:, :1] + torch.arange(weights.shape[1])
            band = weights.to(condition.dtype).unflatten(0, (frames, -1))                     # (frames, hop, taps)
            return torch.einsum("bcfj,fhj->bcfh", condition[:, :, read], band).flatten(2)
    first = first.long()  # ONNX gathers by no other type
    return sum(condition[:, :, first + tap] * weights[:, tap].to(condition.dtype) for tap in range(weights.shape[1]))


def upsample_backward(
    grad: Tensor, condition: Tensor, first: Tensor | None, weights: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """grad (batch, channels, time) of `upsample` -> gradients of condition and of the band's weights (time, taps)."""
    if first is None or weights is None:
        return grad.unflatten(2, (condition.shape[2], -1)).sum(-1), None
    of_condition, of_weights = torch.zeros_like(condition), []
    for tap in range(weights.shape[1]):
        of_condition.index_add_(2, first + tap, grad * weights[:, tap].to(grad.dtype))
        of_weights.append((grad * condition[:, :, first + tap]).sum((0, 1)))
    return of_condition, torch.stack(of_weights, 1).to(weights.dtype)


def check_upsampling(condition: Tensor, upsampling: Upsampling | None, time: int) -> None:
    """ValueError unless `condition` (..., frames) can be brought to `time` steps; values in `first` are not read."""
    frames = condition.shape[-1]
    if upsampling is None:
        if frames < 1 or time % frames:
            raise ValueError(f"{frames} frames do not divide {time} steps: give the upsampling as a band")
        return
    first, weights = upsampling
    if first.dtype != torch.int32 or first.shape != (time,) or weights.dim() != 2 or weights.shape[0] != time:
        raise ValueError(
            f"upsampling to {time} steps: first (time,) int32 and weights (time, taps) are needed, "
            f"not {tuple(first.shape)} {first.dtype} and {tuple(weights.shape)}"
        )
    if not 1 <= weights.shape[1] <= frames:
        raise ValueError(f"a band of {weights.shape[1]} taps does not fit into {frames} frames")
