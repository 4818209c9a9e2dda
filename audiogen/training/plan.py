"""What a run will need, before it begins: memory by the size of a micro-batch, speed, time to finish.

Peak memory is measured at two sizes of micro-batch and is a straight line between and beyond them: weights, gradients,
moments and the average do not depend on the size, what the layers keep for their gradients is proportional to it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from audiogen.core.errors import UserError

UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def bytes_of(text: str) -> int:
    """"6GiB" -> 6442450944; "500 MB" -> 500000000."""
    found = re.fullmatch(r"\s*([\d.]+)\s*([kmgt]?i?)b?\s*", text.lower())
    if not found or found[2] not in UNITS:
        raise UserError(f"memory {text!r} is no amount of memory; write it like 6GiB or 500MB")
    return int(float(found[1]) * UNITS[found[2]])


def line_through(sizes: list[int], peaks: list[float]) -> tuple[float, float]:
    """Least squares: -> (at size 0, for each sample more), both at least 0."""
    mean_size, mean_peak = sum(sizes) / len(sizes), sum(peaks) / len(peaks)
    spread = sum((size - mean_size) ** 2 for size in sizes)
    if not spread:
        return peaks[0], 0.0
    slope = sum((s - mean_size) * (p - mean_peak) for s, p in zip(sizes, peaks, strict=True)) / spread
    slope = max(slope, 0.0)
    return max(mean_peak - slope * mean_size, 0.0), slope


def largest_micro_batch(base: float, slope: float, budget: float, *, share: int) -> int:
    """The largest divisor of a process's `share` of the batch whose peak fits; 0 where not even one sample does."""
    fitting = [size for size in range(1, share + 1) if share % size == 0 and base + slope * size <= budget]
    return max(fitting, default=0)


def measure(
    sizes: list[int], step: Callable[[int], None], forget: Callable[[], None], peak: Callable[[], float]
) -> list[float]:
    """Peaks in MiB of a step at each size, growing; `forget` lets the next peak begin anew."""
    step(min(sizes))  # the moments of the optimizer come with the first step, and the allocator's habits
    peaks = []
    for size in sizes:
        step(size)
        forget()
        step(size)
        peaks.append(peak())
    return peaks


def time_of(step: Callable[[], None], *, seconds: float = 20.0, least: int = 5, most: int = 12) -> float:
    """Median seconds of a step, after two to warm up."""
    times: list[float] = []
    while len(times) < least or (sum(times) < seconds and len(times) < most):
        began = time.monotonic()
        step()
        times.append(time.monotonic() - began)
    counted = sorted(times[2:])
    return counted[len(counted) // 2]


def show(plan: dict[str, Any], say: Callable[[str], None]) -> None:
    for name, value in plan.items():
        say(f"{name:>26}: {value}")
