"""Dropout whose masks are keyed by the sample, so that a step does not depend on how its batch is dealt out."""

from __future__ import annotations

from torch import Tensor

from audiogen.core.rng import SampleRng


def drop_channels(x: Tensor, rate: float, rng: SampleRng | None) -> Tensor:
    """x (batch, tokens, channels) -> like x, with the same channels dropped at every token (Gal and Ghahramani 2016).

    One draw a channel and not one a number: over long sequences drawing would take longer than the layer. Without an
    rng nothing is dropped.
    """
    if rate == 0.0 or rng is None:
        return x
    kept = rng.rand(1, x.shape[2], device=x.device) >= rate  # (batch, 1, channels)
    return x * (kept / (1.0 - rate)).to(x.dtype)
