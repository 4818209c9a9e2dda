"""Pairs of condition and sound: what a file's styles and score say about one of its segments."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from audiogen.conditioning.labels import StyleVocabulary
from audiogen.conditioning.piano_roll import piano_roll
from audiogen.core.interfaces import Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.core.score import Score
from audiogen.data.manifest import Entry, Manifest


class StyleAndScore:
    """The `encode` of a `SegmentDataset`: style vector and aligned piano roll of a segment."""

    def __init__(self, vocabulary: StyleVocabulary, mel: MelFormat, manifest: Manifest) -> None:
        self.vocabulary, self.mel, self.manifest = vocabulary, mel, manifest
        self._known = frozenset(vocabulary.names)

    def __call__(self, entry: Entry, start: float, frames: int, rng: SampleRng) -> Condition:
        known = [style for style in entry.styles if style in self._known]
        path = self.manifest.score(entry)
        roll = piano_roll(_read(path) if path else None, frames, frame_rate=self.mel.frame_rate, start=start)
        vector = self.vocabulary.vector({style: 1.0 / len(known) for style in known})
        return Condition(vector=vector, aligned=roll)


@lru_cache(maxsize=4096)
def _read(path: Path) -> Score:
    return Score.read(path)
