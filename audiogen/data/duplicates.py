"""Which files are the same sound: copies under another name, codec, rate or gain, or with their ends trimmed.

Two steps. All fingerprints are compared in bulk (a matrix product), which costs n² * 64 multiplications and leaves a
few neighbours a file; these are then compared as waveforms: the largest normalised cross-correlation over all lags at
which they overlap by half, at 4 kHz and with the spectrum tilted upwards so that a common bass note is not enough.

    the same recording, MP3 at 64 kbit/s against lossless        0.98 and more
    the same recording, Opus at 48 and 24 kbit/s                 0.98 and 0.96 in the median, 0.89 and 0.84 at worst
    neighbouring takes of one note on one instrument             0.5 in the median, 0.98 for a synthesiser's

Copies at another speed or pitch, and copies inside a mix, are not looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

RATE = 4000  # Hz, of the waveforms that are compared
SECONDS = 20.0  # of each file that are compared
NEAR_DB = 3.0  # root mean square difference of fingerprints: the most that a copy shows
NEIGHBOURS = 6  # of a file that are compared as waveforms
SAME = 0.92  # correlation from which on two files are the same sound


def near_pairs(
    fingerprints: np.ndarray, *, near_db: float = NEAR_DB, neighbours: int = NEIGHBOURS
) -> list[tuple[int, int]]:
    """fingerprints (files, dim) -> pairs (i, j), i < j, one among the other's nearest and nearer than `near_db`."""
    count, dim = fingerprints.shape
    if count < 2:
        return []
    points = fingerprints - fingerprints.mean(axis=0)
    squares = (points**2).sum(axis=1)
    limit = near_db**2 * dim
    pairs = set()
    for first in range(0, count, 1024):
        rows = points[first : first + 1024]
        distance = squares[first : first + len(rows), None] + squares - 2 * rows @ points.T
        distance[np.arange(len(rows)), first + np.arange(len(rows))] = np.inf
        nearest = np.argpartition(distance, min(neighbours, count) - 1, axis=1)[:, :neighbours]
        for row, columns in enumerate(nearest):
            for column in columns:
                if distance[row, column] <= limit:
                    pairs.add((min(first + row, int(column)), max(first + row, int(column))))
    return sorted(pairs)


def likeness(path: str | Path, other: str | Path) -> float:
    """The largest normalised cross-correlation of the two files' waveforms, 0..1 (a copy turned upside down counts)."""
    return correlation(_waveform(str(path)), _waveform(str(other)))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """The same of two waveforms (time,): the largest over the lags at which half of the shorter one overlaps."""
    from scipy.fft import irfft, next_fast_len, rfft

    least = min(len(a), len(b)) // 2
    if least < 16 or not a.any() or not b.any():
        return 0.0
    size = next_fast_len(len(a) + len(b))
    product = irfft(rfft(a, size) * np.conj(rfft(b, size)), size)
    lags = np.arange(-(len(b) - least), len(a) - least + 1)  # b starts `lag` samples after a
    product = product[lags % size]
    begin, end = np.maximum(lags, 0), np.minimum(len(a), len(b) + lags)
    energy_a = _energy(a, begin, end)
    energy_b = _energy(b, begin - lags, end - lags)
    # Half of the energy of one of them must lie in the overlap, so that two quiet tails are not a match.
    heard = (energy_a > 0.5 * float(a @ a)) | (energy_b > 0.5 * float(b @ b))
    score = np.where(heard, np.abs(product) / np.sqrt(np.maximum(energy_a * energy_b, 1e-20)), 0.0)
    return float(score.max(initial=0.0))


def _energy(x: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0.0], np.cumsum(x.astype(np.float64) ** 2)])
    return total[end] - total[begin]


@lru_cache(maxsize=256)
def _waveform(path: str) -> np.ndarray:
    import soundfile
    import soxr

    with soundfile.SoundFile(path) as file:
        samples = file.read(round(SECONDS * file.samplerate), dtype="float32", always_2d=True).mean(axis=1)
        samples = soxr.resample(samples, file.samplerate, RATE, quality="MQ")
    return np.diff(samples, prepend=np.float32(0))  # + 6 dB an octave


def likenesses(pairs: Sequence[tuple[str, str]]) -> list[float]:
    """`likeness` of each pair; one task of a process pool."""
    return [likeness(a, b) for a, b in pairs]
