"""Styles as tables: the form, chords, rhythms, patterns and instruments of a waltz, a jig, a blues ...

A row says how a style is written where the user says nothing; its tempo, metre and mode stand in
`audiogen.conditioning.prompts.FORMS`. Chords are degrees (chords.py), the rest are patterns of a bar (patterns.py):

    melody    "x" a note
    harmony   "x" the chord, "X" with an accent; "0".."5" one of its notes, counted upwards (a broken chord)
    bass      "1" the chord's bass, "3" "5" "7" its other notes, "8" an octave up, "a" a step into the next bass
    drums     "x" a hit, "X" an accent, "o" a ghost note

Patterns and rhythms in tuples follow one another bar by bar. All patterns were written for this table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from audiogen.conditioning.instruments import INSTRUMENTS, Instrument, find_instrument, instruments_in
from audiogen.conditioning.prompts import FORMS, parse_prompt
from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError

PARTS = ("melody", "harmony", "bass", "drums")
HITS = {
    "kick": 36, "snare": 38, "clap": 39, "low tom": 45, "closed": 42, "open": 46, "crash": 49, "tom": 47,
    "high tom": 50, "ride": 51, "tambourine": 54, "cowbell": 56, "conga": 63, "low conga": 64, "maracas": 70,
    "claves": 75,
}  # fmt: skip


@dataclass(frozen=True)
class Style:
    order: str  # the sections in the order they are played, again and again: "AABA"
    major: dict[str, str]  # section -> its chords
    minor: dict[str, str]
    rhythms: tuple[str, ...]  # bars of melody, of which a piece chooses some
    close: str  # the melody's bar at the end of a phrase
    harmony: tuple[str, ...]
    bass: tuple[str, ...]
    instruments: dict[str, str]  # part -> who plays it; a part that is not there is not written
    drums: dict[str, str] = field(default_factory=dict)
    fill: dict[str, str] = field(default_factory=dict)  # the drums' bar at the end of a section
    phrase: int = 4  # bars
    swing: float = 0.5
    swung: int = 1  # parts of a beat that are swung each
    colour: tuple[int, ...] = ()  # semitones above the tonic that the melody may use beside the scale
    loop: bool = False  # runs through, without a closing cadence
    voices: int = 3  # of a chord
    four_part: bool = False  # melody, harmony and bass are led as soprano, alto, tenor and bass


def _band(melody: str, harmony: str, bass: str, drums: str = "") -> dict[str, str]:
    return {part: name for part, name in zip(PARTS, (melody, harmony, bass, drums), strict=True) if name}


_OOMPAH_DRUMS = {"kick": "x . x .", "snare": ". x . x", "closed": "x x x x"}
_ROCK_FILL = {"kick": "X. x. x. x.", "snare": ".. X. xx XX", "tom": ".... .... .... x.x."}
_FOLK = {"A": "I | IV | I | V7 | I | IV | V7 | I", "B": "IV | I | V7 | I | IV | I | V7 | I"}
_FOLK_MINOR = {"A": "i | VII | i | V7 | i | iv | V7 | i", "B": "III | VII | i | V7 | III | VII | V7 | i"}

STYLES: dict[str, Style] = {
    "waltz": Style(
        "AABA",
        {"A": "I | I | IV | I | ii | V7 | V7 | I", "B": "vi | IV | I | I | II7 | II7 | V7 | V7"},
        {"A": "i | i | iv | i | ii° | V7 | V7 | i", "B": "III | VII7 | III | VI | iv | i | V7 | V7"},
        ("x- -- x-", "x- x- x-", "x- -- xx", "x- xx x-"), "x- -- ..",
        ("... x. x.",), ("1- .. ..", "5- .. .."), _band("violin section", "grand piano", "double bass", "drum kit"),
        {"kick": "x . .", "closed": "x x x", "snare": ". o o"}, {"kick": "x . .", "snare": ". x xx", "closed": "x . ."},
    ),
    "minuet": Style(
        "AABB",
        {"A": "I | IV | V7 | I | I | ii | V7 | I", "B": "V | I | V7 | I | IV | I | V7 | I"},
        {"A": "i | iv | V7 | i | i | iv | V7 | i", "B": "III | VII | III | V | iv | i | V7 | i"},
        ("x- x- x-", "x- xx xx", "xx x- x-", "x- -- x-"), "x- -- ..",
        (".. x- x-",), ("1- -- --", "1- -- 5-"), _band("flute", "acoustic guitar", "cello"),
    ),
    "jig": Style(
        "AABB",
        {"A": "I | I | IV | V | I | I | IV V | I", "B": "V | I | IV | V | vi | I | IV V | I"},
        {"A": "i | i | VII | i | i | i | VII v | i", "B": "III | VII | i | i | VI | VII | VII v | i"},
        ("xxx xxx", "x-x xxx", "xxx x-x", "x-x x-x"), "x-x x--",
        ("x.x x.x",), ("1-. 5-.",), _band("flute", "acoustic guitar", "double bass", "drum kit"),
        {"kick": "x.. x..", "closed": "x.x x.x", "snare": "..o ..o"}, {"kick": "x.. x..", "snare": "x.x xxx"},
    ),
    "reel": Style(
        "AABB",
        {"A": "I | I | IV | V | I | I | IV V | I", "B": "I | V | vi | IV | I | V | IV V | I"},
        {"A": "i | i | VII | i | i | i | VII v | i", "B": "III | VII | i | i | VI | VII | VII v | i"},
        ("x- xx xx xx", "xx xx xx xx", "xx x- xx x-", "x- x- xx xx"), "xx xx x- -.",
        (".. x. .. x.",), ("1- .. 5- ..",), _band("violin section", "acoustic guitar", "double bass", "drum kit"),
        {"kick": "x . x .", "closed": "x.x. x.x. x.x. x.x.", "snare": ".. .o .. .o"},
        {"kick": "x . x .", "snare": "x. xo x. xx"},
    ),
    "folk": Style(
        "AABA", _FOLK, _FOLK_MINOR,
        ("x- x- x- x-", "x- xx x- x-", "x- -x x- x-", "xx x- x- x-"), "x- x- x- -.",
        (".. x. .. xx",), ("1- .. 5- ..",), _band("violin section", "acoustic guitar", "double bass", "drum kit"),
        {"kick": "x. .. x. ..", "tambourine": ".. x. .. x.", "closed": "oo oo oo oo"},
        {"kick": "x. .. x. ..", "snare": ".. x. xx xx"},
    ),
    "chorale": Style(
        "AABA",
        {"A": "I . V I | IV . I V | I vi ii V | I . . . | vi . IV I | ii . V vi | IV . V . | I . . .",
         "B": "V . I V | vi . iii IV | I . V vi | V . . . | I . IV V | vi . ii V | I IV V . | I . . ."},
        {"A": "i . V i | iv . i V | i VI iv V | i . . . | VI . iv i | iv . V VI | iv . V . | i . . .",
         "B": "III . VII III | VI . iv V | i . iv i | V . . . | i . iv V | VI . iv V | i iv V . | i . . ."},
        ("x x x x",), "x x x -", ("x x x x", "x x x x", "x x x x", "x x x -"), ("1 1 1 1",),
        _band("female voice", "drawbar organ", "cello"), four_part=True,
    ),
    "blues": Style(
        "A",
        {"A": "I7 | IV7 | I7 | I7 | IV7 | IV7 | I7 | I7 | V7 | IV7 | I7 | V7"},
        {"A": "i7 | iv7 | i7 | i7 | iv7 | iv7 | i7 | i7 | VI7 | V7 | i7 | V7"},
        (".x xx x- ..", "x- xx x- -.", "xx x- .x xx", "x- .x xx x-", "x- -- .. xx"), "x- x- -- ..",
        ("x. .x .. x.", ".. x. .. x."), ("1- 3- 5- 7-", "8- 7- 5- 3-"),
        _band("electric guitar", "drawbar organ", "electric bass", "drum kit"),
        {"kick": "x. .. x. .x", "snare": ".. X. .. X.", "ride": "xx xx xx xx"},
        {"kick": "x. .. x. ..", "snare": ".. X. xx Xx", "tom": ".. .. .x .x", "ride": "xx xx .. .."},
        swing=2 / 3, colour=(3, 6, 10), voices=4,
    ),
    "jazz": Style(
        "AABA",
        {"A": "Imaj7 | vi7 | ii7 | V7 | iii7 VI7 | ii7 V7 | Imaj7 vi7 | ii7 V7",
         "B": "III7 | III7 | VI7 | VI7 | II7 | II7 | V7 | V7"},
        {"A": "i7 | iiø7 V7 | i7 | iiø7 V7 | iv7 | VII7 | IIImaj7 | iiø7 V7",
         "B": "iv7 | VII7 | IIImaj7 | VImaj7 | iiø7 | V7 | i6 | iiø7 V7"},
        (".x xx x- .x", "x- .x x- -.", "xx xx x- ..", "x- -x -x -.", ".x x- xx x-"), "x- x- -- ..",
        ("x- .x .. ..", ".. .x -- .."), ("1- 3- 5- a-", "1- 5- 3- a-"),
        _band("saxophone", "electric piano", "double bass", "drum kit"),
        {"ride": "x. xx x. xx", "closed": ".. x. .. x.", "kick": "o. o. o. o."},
        {"ride": "x. .. x. ..", "snare": ".. .x .x xx", "kick": "x. .. .x .x"}, swing=2 / 3, voices=4,
    ),
    "ragtime": Style(
        "AABBA",
        {"A": "I | I | VI7 | VI7 | II7 | V7 | I | V7 | I | I | VI7 | VI7 | II7 | V7 | I | I",
         "B": "V7 | V7 | I | I | V7 | V7 | I | I7 | IV | iv | I | VI7 | II7 | V7 | I | I"},
        {"A": "i | i | iv | i | V7 | V7 | i | V7 | i | i | iv | i | VI | V7 | i | i",
         "B": "III | III | VII7 | VII7 | III | VI | V7 | V7 | i | iv | i | i | VI7 | V7 | i | i"},
        ("xx-x xx-x", "xx-x x-x-", "x-xx -xx-", ".xxx -xx-"), "x-x- x-..",
        (".x .x",), ("1. 5.",), _band("grand piano", "banjo", "tuba", "drum kit"),
        {"kick": "x x", "snare": ".x .x", "closed": "xx xx"}, {"kick": "x x", "snare": "x-xx x-x-"},
    ),
    "march": Style(
        "AABA",
        {"A": "I | I | IV | I | V7 | V7 | I V7 | I", "B": "IV | IV | I | I | II7 | II7 | V | V7"},
        {"A": "i | i | iv | i | V7 | V7 | i V7 | i", "B": "III | III | VII | III | iv | i | V | V7"},
        ("x- x-.x x- x-", "x-.x x-.x x- x-", "x- x- x-.x x-", "x- -- x-.x x-"), "x- x- x- ..",
        (".. x. .. x.",), ("1. .. 5. ..",), _band("flute", "drawbar organ", "tuba", "drum kit"),
        {"kick": "x . x .", "snare": "x. xx x. xxxx"},
        {"kick": "x . x .", "snare": "x.xx x.xx xxxx X..."},
    ),
    "polka": Style(
        "AABA",
        {"A": "I | I | V7 | V7 | V7 | V7 | I | I", "B": "IV | IV | I | I | V7 | V7 | I | I"},
        {"A": "i | i | V7 | V7 | iv | V7 | i | i", "B": "III | III | VII7 | III | iv | i | V7 | i"},
        ("x-xx x-x-", "xxxx x-x-", "x-x- x-x-"), "x-x- x-..",
        (".x .x",), ("1. 5.",), _band("flute", "banjo", "tuba", "drum kit"),
        {"kick": "x x", "snare": ".x .x", "closed": "xx xx"}, {"kick": "x x", "snare": "x-xx xxX-"},
    ),
    "tango": Style(
        "AAB",
        {"A": "I | I | V7 | V7 | V7 | V7 | I | I", "B": "IV | I | V7 | I | IV | I | V7 | I"},
        {"A": "i | i | V7 | V7 | iv | i | V7 | i", "B": "VI | III | VII | III | iv | i | V7 | i"},
        ("x- x- xx x-", "x-.x x- x- x-", "x- -x xx x-", "x- -- x- xx"), "x- x- -- ..",
        ("x. x. x. xx",), ("1- .. 1- .5",), _band("violin section", "grand piano", "double bass"),
    ),
    "ballad": Style(
        "AABA",
        {"A": "I | vi | IV | V | I | iii | IV V | I", "B": "IV | V | iii | vi | ii | V7 | I | V7"},
        {"A": "i | VI | III | VII | i | VI | iv V7 | i", "B": "VI | VII | III | i | iv | VI | iv | V7"},
        ("x- -- x- x-", "x- x- -- xx", "x- -x x- --", ".x xx x- --"), "x- -- -- ..",
        ("01 21 01 21",), ("1- -- 5- --",), _band("female voice", "grand piano", "electric bass", "drum kit"),
        {"kick": "x. .. x. ..", "snare": ".. x. .. x.", "closed": "x. x. x. x."},
        {"kick": "x. .. x. ..", "snare": ".. x. .. xx", "tom": ".. .. .. .x"},
    ),
    "lullaby": Style(
        "AABA",
        {"A": "I | I | IV | I | I | V7 | V7 | I", "B": "IV | IV | I | I | V7 | V7 | I | I"},
        {"A": "i | i | iv | i | i | V7 | V7 | i", "B": "VI | VI | III | III | iv | V7 | i | i"},
        ("x- -- x-", "x- x- x-", "x- -- --"), "x- -- ..", ("0- 1- 2-",), ("1- -- --",),
        _band("flute", "vibraphone", "cello"),
    ),
    "pop": Style(
        "ABAB",
        {"A": "I | V | vi | IV | I | V | vi | IV", "B": "IV | I | V | vi | IV | I | V | V"},
        {"A": "i | VI | VII | i | i | VI | iv | V", "B": "VI | VII | i | i | VI | VII | V | V"},
        ("x. xx -x x-", ".x x- xx x-", "x- xx -x --", "x- -x -x x-"), "x- x- -- ..",
        ("x- .x .x x.",), ("1. .1 .1 1.",), _band("female voice", "electric piano", "electric bass", "drum kit"),
        {"kick": "x. .. .x x.", "snare": ".. X. .. X.", "closed": "xx xx xx xx"}, _ROCK_FILL,
    ),
    "rock": Style(
        "ABAB",
        {"A": "I | I | IV | I | I | bVII | IV | I", "B": "IV | IV | I | I | V | IV | I | V"},
        {"A": "i | i | VI | VII | i | i | VI | V", "B": "VI | VII | i | i | VI | VII | V | V"},
        ("x- xx .x x-", "xx -x -x x-", "x- x- xx -x", ".x xx x- -."), "x- x- -- ..",
        ("xx .x xx .x", "x- -- xx xx"), ("11 11 11 11", "11 11 11 1a"),
        _band("saxophone", "electric guitar", "electric bass", "drum kit"),
        {"kick": "X. .. xx ..", "snare": ".. X. .. X.", "closed": "xx xx xx xx"}, _ROCK_FILL,
    ),
    "funk": Style(
        "AAB",
        {"A": "I7 | I7 | I7 | IV7 | I7 | I7 | I7 | V7", "B": "IV7 | IV7 | I7 | I7 | II7 | II7 | V7 | V7"},
        {"A": "i7 | i7 | i7 | IV7 | i7 | i7 | i7 | V7", "B": "iv7 | iv7 | i7 | i7 | VI7 | VI7 | V7 | V7"},
        ("x.x. .x.x x-.. ....", "..xx x.x- .... x.x.", "x-.x ..x- .x.x ...."), "x-x- x-.. .... ....",
        ("..x. x..x .x.. x...",), ("1..1 ..8. .1.. 57..",),
        _band("saxophone", "electric guitar", "electric bass", "drum kit"),
        {"kick": "x..x ..x. .x.. ..x.", "snare": ".... X..o .o.. X...", "closed": "xxxx xxxx xxxx xxxx"}, _ROCK_FILL,
        colour=(3, 10), voices=4,
    ),
    "lo-fi": Style(
        "AAB",
        {"A": "ii7 | V9 | Imaj7 | vi7 | ii7 | V9 | Imaj7 | Imaj7",
         "B": "IVmaj7 | iii7 | ii7 | Imaj7 | IVmaj7 | iii7 | ii7 | V9"},
        {"A": "i9 | VImaj7 | iv7 | v7 | i9 | VImaj7 | iv7 | v7",
         "B": "VImaj7 | v7 | iv7 | i7 | VImaj7 | v7 | iv7 | V7"},
        ("x- .. .x x-", ".. xx x- ..", "x- -x .. ..", "..x. x-x- .... ....", ".x x- -- .."), "x- -- .. ..",
        ("x- -- .x --", "x- .x -- .."), ("1- .. .1 5-", "1- .. .. .a"),
        _band("vibraphone", "electric piano", "electric bass", "drum kit"),
        {"kick": "x... ...x ..x. ....", "snare": ".... x... .... x...", "closed": "x.x. x.x. x.x. x.xo"},
        {"kick": "x... ...x ..x. ....", "snare": ".... x... .... x..o", "open": ".... .... .... ..x."},
        swing=0.6, swung=2, loop=True, voices=4,
    ),
    "hip hop": Style(
        "AAAB",
        {"A": "I | I | vi | IV", "B": "IV | V | vi | vi"}, {"A": "i | i | VI | v", "B": "iv | v | i | VII"},
        ("x.x. ..x- .... x.x.", "x- .. xx ..", "..x. x.x. x-.. ...."), "x- -- .. ..",
        ("x- .. .. x-",), ("1... ..1. .1.. ....", "1... ..1. .1.. ..a."),
        _band("electric piano", "violin section", "electric bass", "TR-808 drums"),
        {"kick": "x... ..x. .xx. ....", "snare": ".... X... .... X...", "closed": "x.x. x.x. x.xx x.x."},
        {"kick": "x... ..x. .x.. ....", "clap": ".... X... .... X.xx", "closed": "x.x. x.x. x.x. xxxx"},
        swing=0.56, swung=2, loop=True,
    ),
    "house": Style(
        "AABB",
        {"A": "I | I | vi | IV", "B": "IV | V | I | I"}, {"A": "i | i | VI | VII", "B": "iv | VI | i | i"},
        ("x.x. .x.. x.x. ....", "x- .x .x ..", "..x. x.x. ..x. x..."), "x- -- .. ..",
        (".x .x .x .x", "x..x ..x. .x.. x..."), (".1 .1 .1 .8",),
        _band("electric piano", "drawbar organ", "electric bass", "TR-808 drums"),
        {"kick": "X X X X", "clap": ". x . x", "open": ".x .x .x .x", "closed": "x.xx x.xx x.xx x.xx"},
        {"kick": "X X X .", "clap": ". x . xxxx", "open": ".x .x .x .."}, loop=True, voices=4,
    ),
    "techno": Style(
        "AAB",
        {"A": "I | I | IV | I", "B": "I | I | vi | V"}, {"A": "i | i | VI | i", "B": "i | i | iv | VII"},
        ("x..x ..x. x..x ..x.", "x.x. .x.. x.x. .x..", "..x. ..x. ..x. .xx."), "x..x ..x. x... ....",
        ("..x. ..x. ..x. ..x.", "x..x ..x. ..x. ...."), (".111 .111 .111 .118",),
        _band("steel drum", "electric piano", "electric bass", "TR-808 drums"),
        {"kick": "X X X X", "clap": ". x . x", "open": ".x .x .x .x", "closed": "xoxo xoxo xoxo xoxo"},
        {"kick": "X X X x.x.", "snare": ".... .... x.x. xxxx"}, loop=True,
    ),
    "drum and bass": Style(
        "AAB",
        {"A": "I | I | vi | IV", "B": "IV | V | vi | vi"}, {"A": "i | i | VI | VII", "B": "iv | VI | i | VII"},
        ("x- -- .x x-", "x- .. xx x-", "x- -- -- --"), "x- -- .. ..",
        ("x- -- -- --",), ("1- -1 .. 1-", "1- .. .1 a-"),
        _band("vibraphone", "electric piano", "electric bass", "drum kit"),
        {"kick": "X... .... ..x. ....", "snare": ".... X..o .o.. X..o", "closed": "x.x. x.x. x.x. x.x."},
        {"kick": "X... .... ..x. ....", "snare": ".... X..x .x.. X.xx"}, loop=True, voices=4,
    ),
    "bossa nova": Style(
        "AABA",
        {"A": "Imaj7 | Imaj7 | II7 | II7 | ii7 | V7 | Imaj7 | V7",
         "B": "IVmaj7 | IVmaj7 | iv6 | iv6 | iii7 | VI7 | ii7 | V7"},
        {"A": "i6 | i6 | iiø7 | V7 | i6 | iv7 | V7 | i6", "B": "iv7 | VII7 | IIImaj7 | VImaj7 | iiø7 | V7 | i6 | V7"},
        ("x- -x -x --", ".x -x -- x-", "x- .x x- -x", "xx -x -- -."), "x- x- -- ..",
        ("x.x. .x.. x..x ..x.", "..x. .x.. x..x ...."), ("1- -5 5- -1",),
        _band("saxophone", "acoustic guitar", "double bass", "drum kit"),
        {"kick": "x. .x x. .x", "closed": "xx xx xx xx", "claves": "x..x ..x. ..x. .x.."},
        {"kick": "x. .x x. .x", "closed": "xx xx xx xx", "claves": "x..x ..x. ..x. x..."}, voices=4,
    ),
    "salsa": Style(
        "AAB",
        {"A": "I | IV | V7 | IV | I | IV | V7 | V7", "B": "ii7 | V7 | I | I | ii7 | V7 | I | V7"},
        {"A": "i | iv | V7 | V7 | i | iv | V7 | V7", "B": "iv | VII | III | VI | iv | V7 | i | V7"},
        ("xx -x xx -x", ".x x- .x x-", "x- xx -x x-"), "x- x- -- ..",
        ("x. xx .x .x", ".x .x .x .x"), (".. .1 -- 5-",),
        _band("flute", "grand piano", "electric bass", "drum kit"),
        {"kick": ".. .x .. x.", "cowbell": "x. x. x. x.", "claves": "x. .x .. x.", "conga": ".. x. .. xx"},
        {"kick": ".. .x .. x.", "cowbell": "x. x. x. x.", "conga": "xx xx xx xx"},
    ),
    "reggae": Style(
        "AAB",
        {"A": "I | IV | I | V | I | IV | V | I", "B": "vi | ii | vi | ii | IV | V | IV | V"},
        {"A": "i | iv | i | VII | i | iv | VII | i", "B": "VI | VII | VI | VII | iv | v | iv | v"},
        ("x- xx .. x-", ".x x- xx ..", "x- -x .. .."), "x- x- -- ..",
        (".. x. .. x.",), (".. 1- 35 ..", "1- .. 53 .."),
        _band("female voice", "drawbar organ", "electric bass", "drum kit"),
        {"kick": ".. .. X. ..", "snare": ".. .. X. ..", "closed": "xx xx xx xo"},
        {"kick": ".. .. X. ..", "snare": ".. xx X. xx"},
    ),
    "ambient": Style(
        "AB",
        {"A": "Iadd9 | I | IVmaj7 | Iadd9", "B": "vi7 | IVmaj7 | Iadd9 | I"},
        {"A": "i9 | i | VImaj7 | i", "B": "iv7 | VImaj7 | i9 | i"},
        ("x- -- -- --", "x- -- x- --", ".. x- -- --"), "x- -- -- --",
        ("x- -- -- --",), ("1- -- -- --",), _band("vibraphone", "violin section", "cello"), loop=True, voices=4,
    ),
    "etude": Style(
        "AABA",
        {"A": "I | V7 | I | V7 | IV | I | ii V7 | I", "B": "V | I | V | I | vi | ii | V | V7"},
        {"A": "i | V7 | i | V7 | iv | i | ii° V7 | i", "B": "III | VII | III | VI | iv | i | V | V7"},
        ("xx xx xx xx", "xx xx x- x-", "x- xx xx xx", "x-xx x-xx x- x-"), "xx x- x- ..",
        ("02 12 02 12",), ("1- -- 1- --",), _band("violin section", "grand piano", "cello"),
    ),
}  # fmt: skip

# Forms that are written in the manner of another, at a tempo and in a metre of their own.
MANNER: dict[str, str] = {
    "ballade": "ballad", "boogie": "blues", "disco": "house", "fugue": "etude", "hornpipe": "reel", "mazurka": "waltz",
    "metal": "rock", "nocturne": "ballad", "punk": "rock", "scherzo": "minuet", "siciliana": "jig", "slip jig": "jig",
    "strathspey": "folk", "sarabande": "minuet", "synthwave": "house", "trap": "hip hop",
}  # fmt: skip


def style_of_form(form: str) -> Style:
    """The row of a key of FORMS."""
    return STYLES[MANNER.get(form, form)]


def find_form(name: str) -> str | None:
    """ "Lo-Fi beat" -> "lo-fi"; None where no form is named. An instrument is none ("jazz guitar")."""
    form = parse_prompt(name).form
    return None if find_instrument(name) or instruments_named(name) else form


def instruments_named(text: str) -> list[Instrument]:
    """The instruments that a text names beside its form: "drum and bass" is no bass."""
    form = parse_prompt(text).form
    return instruments_in(without_form(text, form) if form else text)


def without_form(text: str, form: str) -> str:
    """The text without the words that name a form."""
    for words in (form, *FORMS[form].words):
        pattern = r"[\s_-]?".join(map(re.escape, re.split(r"[\s-]", words)))
        text = re.sub(rf"(?i)\b{pattern}(?:s|es)?\b", " ", text)
    return text


def unknown_style(name: str) -> UserError:
    return UserError(f"no style or instrument is called {name!r}{did_you_mean(name.lower(), [*FORMS, *INSTRUMENTS])}")
