"""A folder of small sounds with styles and a score, scanned by hand, to pack."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import soundfile

from audiogen.core.score import Note, Score
from audiogen.data import pack
from audiogen.data.manifest import Entry, Manifest

RATE = 22050


def sounds(folder: Path, seconds: tuple[float, ...] = (2.3, 1.0, 0.6, 1.7), **fields) -> Manifest:
    """One FLAC file of noise for each length, at two rates; the first has a score beside it."""
    entries = []
    for number, length in enumerate(seconds):
        rate = RATE if number % 2 == 0 else 44100
        path = folder / f"{number}.flac"
        sound = 0.2 * np.random.default_rng(number).standard_normal(round(length * rate))
        soundfile.write(path, sound, rate)
        total = soundfile.info(path).frames
        score = None
        if number == 0:
            score = "0.mid"
            Score((Note(0.1, 0.5, 60, 90), Note(0.9, 0.7, 64, 70), Note(1.5, 0.2, 67, 50))).save(folder / score)
        entries.append(Entry(path.name, total / rate, rate, 1, styles=("cello" if number % 2 == 0 else "rain",),
                             text=f"sound {number}", score=score, hash=str(number), **fields))
    return Manifest(tuple(entries), folder)


def pack_slowly(manifest: Manifest, folder: Path, settings: pack.PackSettings) -> None:
    """`pack` with time to be killed in; a process of its own."""
    encode = pack._encode

    def slowly(*arguments):
        time.sleep(0.2)
        return encode(*arguments)

    pack._encode = slowly
    pack.pack(manifest, folder, settings, workers=1)
