"""Weights that anyone can make again: the same numbers here and in the original code, from the tensors' names alone.

The golden files hold what the original implementation answered when its state dict was filled by `made_state`: its
layout (names and shapes) and its outputs, numbers only.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch


def made_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Normal numbers, sized so that signals neither die nor explode; gains of weight norms lie around 1.

    numpy's legacy RandomState is frozen: its numbers never change between versions.
    """
    draws = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape or (1,)).reshape(shape)
    if name.endswith(("weight_g", "original0")):
        values = 0.7 + 0.1 * np.abs(draws)
    elif len(shape) >= 2:
        values = draws / math.sqrt(math.prod(shape[1:]))
    else:
        values = 0.05 * draws
    return torch.from_numpy(values.astype(np.float32))


def made_state(layout: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """name -> shape becomes name -> tensor."""
    return {name: made_tensor(name, tuple(shape)) for name, shape in layout.items()}


def made_mel(n_mels: int, frames: int, *, low: float = -9.0, high: float = 1.0) -> torch.Tensor:
    """(1, n_mels, frames): smooth in frequency and time, in the range of log-mels."""
    k, t = np.arange(n_mels)[:, None], np.arange(frames)[None, :]
    wave = 0.5 + 0.25 * np.sin(0.37 * k + 0.61 * t) + 0.25 * np.cos(0.11 * k * (1 + 0.05 * t))
    return torch.from_numpy((low + (high - low) * wave).astype(np.float32))[None]
