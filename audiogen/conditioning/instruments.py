"""The instruments that audiogen writes for and plays: one row each, shared by composers and the sampler.

`low` and `high` are the range a composer writes in (MIDI numbers, both included), not all that the instrument can do.
`aliases` are names found in folders and metadata; a bare name stands for the row whose alias it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError


@dataclass(frozen=True)
class Instrument:
    """What the writing rules and the sampler must know of one instrument."""

    name: str
    aliases: tuple[str, ...]  # other names, in folders, metadata and prompts
    program: int  # General MIDI, 0..127
    low: int
    high: int
    polyphonic: bool
    sustained: bool  # a held note goes on sounding: bowed, blown, sung, organ
    family: str  # keys, plucked, mallets, lead (one voice), strings, bass, drone, drums
    release: float = 0.12  # seconds that a note takes to fade once it is let go
    articulations: tuple[str, ...] = ()  # of the recorded notes; empty: any

    @property
    def drum(self) -> bool:
        return self.family == "drums"


# fmt: off
INSTRUMENTS: dict[str, Instrument] = {row.name: row for row in (
    #          name               aliases                                   program low high poly  sustained family
    Instrument("grand piano", ("piano", "felt piano", "concert piano"), 0, 31, 93, True, False, "keys", 0.18),
    Instrument("electric piano", ("pianet electric piano", "wurlitzer electric piano", "electric grand piano", "pianet",
               "wurlitzer", "rhodes", "e-piano"), 4, 33, 88, True, False, "keys", 0.14),
    Instrument("drawbar organ", ("organ", "hammond", "hammond organ", "church organ"), 16, 36, 84, True, True, "keys",
               0.06),
    Instrument("acoustic guitar", ("steel-string acoustic guitar", "archtop guitar", "guitar", "nylon guitar"),
               25, 40, 81, True, False, "plucked", 0.16),
    Instrument("electric guitar", ("clean electric guitar", "archtop electric guitar"), 27, 40, 84, True, False,
               "plucked", 0.16),
    Instrument("electric bass", ("electric bass guitar", "fingered electric bass guitar", "bass guitar", "bass"),
               33, 40, 60, False, False, "bass", 0.1),
    Instrument("double bass", ("upright bass", "contrabass", "acoustic bass"), 32, 40, 60, False, False, "bass", 0.16,
               ("pizzicato",)),
    Instrument("cello", ("violoncello",), 42, 36, 76, False, True, "lead", 0.15),
    Instrument("violin section", ("violins", "strings", "string section", "violin"), 48, 55, 86, True, True, "strings",
               0.2, ("bowed with vibrato",)),
    Instrument("flute", (), 73, 60, 91, False, True, "lead", 0.1),
    Instrument("saxophone", ("alto saxophone", "tenor saxophone", "soprano saxophone", "sax", "alto sax", "tenor sax",
               "soprano sax"), 65, 49, 80, False, True, "lead", 0.09),
    Instrument("tuba", (), 58, 39, 62, False, True, "bass", 0.1, ("sustained",)),
    Instrument("bagpipe", ("bagpipes", "pipes"), 109, 55, 84, True, True, "drone", 0.06, ("sustained",)),
    Instrument("banjo", ("six-string banjo",), 105, 43, 72, True, False, "plucked", 0.12),
    Instrument("sitar", (), 104, 40, 77, True, False, "drone", 0.2),
    Instrument("marimba", (), 12, 45, 93, True, False, "mallets", 0.25),
    Instrument("vibraphone", ("vibes",), 11, 53, 88, True, False, "mallets", 0.25),
    Instrument("steel drum", ("steel drums", "steelpan", "steel pan"), 114, 60, 83, True, False, "mallets", 0.2),
    Instrument("female voice", ("voice", "singer", "soprano", "vocal", "woman singing"), 52, 55, 81, False, True,
               "lead", 0.1),
    Instrument("drum kit", ("drums", "drumset", "drum set", "acoustic drums"), 0, 35, 81, True, False, "drums", 0.25),
    Instrument("TR-808 drums", ("tr-808", "808", "808 drums", "electronic drums", "drum machine"), 25, 35, 81, True,
               False, "drums", 0.25),
)}
# fmt: on

# General MIDI hit -> words that name its recordings, best first. The words are looked for in this order, whole.
DRUM_HITS: dict[int, tuple[str, ...]] = {
    36: ("kick drum", "bass drum", "kick"),
    38: ("snare drum with snares", "snare drum", "snare"),
    39: ("hand clap", "hand claps", "clap", "claps"),
    41: ("floor tom", "low tom"),
    42: ("closed hi-hat", "hi-hat closed", "closed hat", "hi-hat cymbal", "hi-hat", "hat"),
    45: ("low tom", "mid tom"),
    46: ("open hi-hat", "hi-hat open", "open hat"),
    47: ("mid tom", "tom"),
    49: ("crash cymbal", "cymbal", "crash"),
    50: ("high tom", "mid tom"),
    51: ("ride cymbal", "ride"),
    52: ("china cymbal",),
    53: ("ride cymbal bell",),
    54: ("tambourine",),
    56: ("cowbell",),
    62: ("mid conga",),
    63: ("high conga", "conga"),
    64: ("low conga",),
    70: ("maracas",),
    75: ("claves",),
}
# Hits that a kit lacks are played on another of its drums; following the table always ends at the kick or snare drum.
DRUM_STAND_INS: dict[int, int] = {
    35: 36,
    37: 38,
    39: 38,
    40: 38,
    41: 45,
    42: 70,
    43: 41,
    44: 42,
    45: 47,
    46: 42,
    47: 50,
    48: 47,
    49: 46,
    50: 38,
    51: 42,
    52: 49,
    53: 51,
    54: 42,
    55: 49,
    56: 51,
    57: 49,
    59: 51,
    60: 50,
    61: 45,
    62: 47,
    63: 50,
    64: 45,
    65: 50,
    66: 45,
    67: 56,
    68: 56,
    69: 70,
    70: 75,
    75: 38,
    76: 75,
    77: 75,
    80: 53,
    81: 53,
}


def find_instrument(name: str) -> Instrument | None:
    """The row called `name` (or by one of its aliases), ignoring case, or None."""
    wanted = _plain(name)
    for row in INSTRUMENTS.values():
        if wanted == _plain(row.name):
            return row
    for row in INSTRUMENTS.values():
        if wanted in map(_plain, row.aliases):
            return row
    return None


def instrument(name: str) -> Instrument:
    """The row called `name`. Raises `UserError` with the nearest names."""
    row = find_instrument(name)
    if row is None:
        raise UserError(f"no instrument is called {name!r}{did_you_mean(name, INSTRUMENTS)}")
    return row


def instruments_in(text: str) -> list[Instrument]:
    """The instruments that a text names, in the order of the text; the longest name wins where names overlap."""
    plain = _plain(text)
    names = sorted(
        ((_plain(name), row) for row in INSTRUMENTS.values() for name in (row.name, *row.aliases)),
        key=lambda pair: -len(pair[0]),
    )
    found: dict[int, Instrument] = {}
    taken = [False] * len(plain)
    for name, row in names:
        for match in re.finditer(rf"(?<!\w){re.escape(name)}s?(?!\w)", plain):
            if not any(taken[match.start() : match.end()]):
                taken[match.start() : match.end()] = [True] * (match.end() - match.start())
                found[match.start()] = row
    return list(dict.fromkeys(found[at] for at in sorted(found)))


def _plain(name: str) -> str:
    return re.sub(r"[\s_]+", " ", name.strip().lower())
