"""What the rule composer knows of musical styles, as tables: chords, accompaniment, rhythm, drums.

Progressions are phrases of four bars; a number is the degree that a bar's chord stands on. The tonic takes about half
of the bars, so that a clip of a few seconds says its key.
"""

from __future__ import annotations

from dataclasses import dataclass

Phrase = tuple[int, int, int, int]

SONG_MAJOR: tuple[Phrase, ...] = ((1, 4, 5, 1), (1, 4, 1, 5), (1, 6, 4, 1), (1, 4, 1, 1), (1, 2, 5, 1))
SONG_MINOR: tuple[Phrase, ...] = ((1, 4, 1, 1), (1, 6, 4, 1), (1, 4, 5, 1), (1, 6, 1, 4), (1, 4, 1, 7))
PLAIN_MAJOR: tuple[Phrase, ...] = ((1, 4, 5, 1), (1, 4, 1, 1), (1, 1, 4, 1))
PLAIN_MINOR: tuple[Phrase, ...] = ((1, 4, 1, 1), (1, 4, 5, 1), (1, 6, 1, 1))
BLUES: tuple[Phrase, ...] = (
    (1, 4, 1, 1),
    (4, 4, 1, 1),
    (5, 4, 1, 5),
)  # in this order: twelve bars, with a quick change
STILL_MAJOR: tuple[Phrase, ...] = ((1, 1, 4, 1), (1, 6, 1, 4), (1, 4, 5, 1))
STILL_MINOR: tuple[Phrase, ...] = ((1, 1, 4, 1), (1, 4, 7, 1), (1, 6, 1, 1))
LOOP_MAJOR: tuple[Phrase, ...] = ((1, 4, 1, 5), (1, 1, 4, 1), (1, 6, 4, 1))
LOOP_MINOR: tuple[Phrase, ...] = ((1, 6, 1, 7), (1, 1, 4, 1), (1, 6, 4, 1))


@dataclass(frozen=True)
class Grammar:
    """One row a family of styles. Names of patterns are functions of rules.py and of rhythms.py."""

    accompaniment: str  # block, oompah, arpeggio, pad, pulse, walk, chorale
    bass: str  # oompah, riff, walk, pulse, long
    drums: str  # rock, dance, waltz, march, shuffle, lofi, soft
    major: tuple[Phrase, ...] = SONG_MAJOR
    minor: tuple[Phrase, ...] = SONG_MINOR
    density: float = 0.4  # how often a beat of the melody is divided, at a moving tempo
    dotted: float = 0.0  # how often a divided beat is dotted (or swung)
    swing: bool = False  # divided beats are 2 : 1
    ordered: bool = False  # the phrases come in this order, not as the composer likes
    bpm: tuple[float, float] = (80, 132)  # where nothing was said about the tempo


GRAMMARS: dict[str, Grammar] = {
    "song": Grammar("arpeggio", "riff", "rock"),
    "ballad": Grammar("arpeggio", "long", "soft", density=0.25, bpm=(64, 90)),
    "waltz": Grammar("oompah", "oompah", "waltz", density=0.3, bpm=(84, 160)),
    "jig": Grammar("oompah", "oompah", "waltz", PLAIN_MAJOR, PLAIN_MINOR, density=0.8, bpm=(150, 180)),
    "march": Grammar("oompah", "oompah", "march", PLAIN_MAJOR, PLAIN_MINOR, density=0.4, dotted=0.5, bpm=(104, 124)),
    "blues": Grammar("walk", "walk", "shuffle", BLUES, BLUES, density=0.5, swing=True, ordered=True, bpm=(76, 120)),
    "jazz": Grammar("walk", "walk", "shuffle", density=0.5, swing=True, bpm=(100, 160)),
    "folk": Grammar("oompah", "oompah", "soft", PLAIN_MAJOR, PLAIN_MINOR, density=0.5, bpm=(90, 132)),
    "ragtime": Grammar("oompah", "oompah", "march", density=0.7, dotted=0.3, bpm=(84, 108)),
    "lo-fi": Grammar("block", "riff", "lofi", LOOP_MAJOR, LOOP_MINOR, density=0.25, bpm=(70, 90)),
    "dance": Grammar("pulse", "pulse", "dance", LOOP_MAJOR, LOOP_MINOR, density=0.4, bpm=(118, 138)),
    "rock": Grammar("pulse", "pulse", "rock", LOOP_MAJOR, LOOP_MINOR, density=0.4, bpm=(108, 144)),
    "chorale": Grammar("chorale", "long", "soft", density=0.15, bpm=(66, 90)),
    "ambient": Grammar("pad", "long", "soft", STILL_MAJOR, STILL_MINOR, density=0.05, bpm=(60, 80)),
    "classical": Grammar("arpeggio", "walk", "soft", density=0.5, bpm=(90, 132)),
}

# A prompt's form (audiogen.conditioning.prompts.FORMS) -> the grammar that it is written in.
GRAMMAR_OF_FORM: dict[str, str] = {
    "ambient": "ambient",
    "ballad": "ballad",
    "ballade": "ballad",
    "blues": "blues",
    "boogie": "blues",
    "bossa nova": "folk",
    "chorale": "chorale",
    "disco": "dance",
    "drum and bass": "dance",
    "etude": "classical",
    "folk": "folk",
    "fugue": "classical",
    "funk": "rock",
    "hip hop": "lo-fi",
    "hornpipe": "folk",
    "house": "dance",
    "jazz": "jazz",
    "jig": "jig",
    "lo-fi": "lo-fi",
    "lullaby": "ballad",
    "march": "march",
    "mazurka": "waltz",
    "metal": "rock",
    "minuet": "waltz",
    "nocturne": "ballad",
    "polka": "march",
    "pop": "song",
    "punk": "rock",
    "ragtime": "ragtime",
    "reel": "folk",
    "reggae": "lo-fi",
    "rock": "rock",
    "salsa": "dance",
    "scherzo": "waltz",
    "siciliana": "jig",
    "slip jig": "jig",
    "strathspey": "folk",
    "sarabande": "ballad",
    "synthwave": "dance",
    "tango": "march",
    "techno": "dance",
    "trap": "lo-fi",
    "waltz": "waltz",
}
