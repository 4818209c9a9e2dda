"""Sounds that anyone can make again, from formulas: what the originals of the mel front ends were asked."""

from __future__ import annotations

import numpy as np
import torch


def made_sound(name: str, sample_rate: int, n_fft: int) -> torch.Tensor:
    """-> (time,) float32. `name`: one of `SOUNDS`; "short" is shorter than a window, and longer than half of one."""
    time = {"chirp": 3 * n_fft, "clipping": 2 * n_fft + 77, "silence": 2 * n_fft, "short": 3 * n_fft // 4 + 5}[name]
    t = np.arange(time) / sample_rate
    noise = np.random.RandomState(len(name)).standard_normal(time)
    sound = 0.4 * np.sin(2 * np.pi * (100 * t + 0.4 * sample_rate / 2 * t**2 * sample_rate / time)) + 0.03 * noise
    if name == "silence":
        sound = 0.0 * sound
    if name == "clipping":
        sound = np.clip(4 * sound, -1.0, 1.0)
    return torch.from_numpy(sound.astype(np.float32))


SOUNDS = ("chirp", "clipping", "silence", "short")
