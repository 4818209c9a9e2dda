"""Pairs of condition and sound: what a file's styles and score say about one of its segments."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from torch import Tensor

from audiogen.conditioning.labels import StyleVocabulary
from audiogen.conditioning.piano_roll import note_table, roll_of
from audiogen.core.interfaces import Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.core.score import Score
from audiogen.data.manifest import Entry, Manifest


class StyleAndScore:
    """The `encode` of a `SegmentDataset`: style vector and aligned piano roll of a segment."""

    def __init__(self, vocabulary: StyleVocabulary, mel: MelFormat, manifest: Manifest) -> None:
        self.vocabulary, self.mel, self.manifest = vocabulary, mel, manifest

    def __call__(self, entry: Entry, start: float, frames: int, rng: SampleRng) -> Condition:
        path = self.manifest.score(entry)
        roll = roll_of(_notes(path) if path else None, frames, frame_rate=self.mel.frame_rate, start=start)
        return Condition(vector=style_vector(self.vocabulary, tuple(entry.styles)), aligned=roll)


@lru_cache(maxsize=4096)
def style_vector(vocabulary: StyleVocabulary, styles: tuple[str, ...]) -> Tensor:
    """(dim,): the styles in equal shares; those that the vocabulary does not know are passed over."""
    known = [style for style in styles if style in vocabulary.names]
    return vocabulary.vector({style: 1.0 / len(known) for style in known})


@lru_cache(maxsize=4096)
def _notes(path: Path) -> np.ndarray:
    return note_table(Score.read(path))
