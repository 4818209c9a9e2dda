"""What a prompt's words say about the music: tempo, key, mode, metre, form and energy; and files of prompts.

Only plain rules over words: "slow waltz in A minor" -> 3/4, A minor, a slow tempo. What a person writes in a field of
the `Prompt` (bpm, key, metre) always wins over its text. A field that nothing speaks about stays None, and is the
composer's to choose.

>>> plan = plan_prompt(Prompt(text="a slow waltz in A minor"))
>>> plan.metre, plan.key, plan.form, plan.bpm_range
('3/4', 'A minor', 'waltz', (62.2, 118.4))
"""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.core.score import Score

MIN_BPM, MAX_BPM = 20.0, 400.0
MIN_SECONDS = 0.1


@dataclass(frozen=True)
class MusicalPlan:
    """What a composer keeps to. None everywhere: nothing was asked, choose freely."""

    bpm: float | None = None  # quarter notes per minute, where a number was given
    bpm_range: tuple[float, float] | None = None  # the tempi that the words allow; (bpm, bpm) where a number was given
    key: str | None = None  # "A minor", "F# major"
    mode: str | None = None  # "major" or "minor": of the key, or of the mood where no key is named
    metre: str | None = None  # "3/4"
    form: str | None = None  # a key of FORMS
    energy: float | None = None  # 0 calm .. 1 wild


@dataclass(frozen=True)
class Form:
    """What a word such as "waltz" implies where nothing else is said."""

    metre: str
    bpm_range: tuple[float, float]
    energy: float
    mode: str | None = None
    words: tuple[str, ...] = ()  # other words for it; the name itself always counts


# Tempi are quarter notes per minute: the customary ranges of each dance or genre.
FORMS: dict[str, Form] = {
    "ambient": Form("4/4", (50, 72), 0.1, words=("drone", "soundscape", "meditation", "new age")),
    "ballad": Form("4/4", (60, 84), 0.3, words=("power ballad", "slow song", "love song")),
    "ballade": Form("6/8", (60, 90), 0.4),
    "blues": Form("4/4", (70, 120), 0.5, words=("bluesy", "twelve bar blues", "12 bar blues")),
    "boogie": Form("4/4", (130, 170), 0.8, "major", ("boogie woogie",)),
    "bossa nova": Form("4/4", (110, 140), 0.4, words=("bossa", "samba", "latin")),
    "chorale": Form("4/4", (60, 80), 0.3, words=("choral", "hymn", "anthem", "carol", "psalm")),
    "disco": Form("4/4", (112, 128), 0.8),
    "drum and bass": Form("4/4", (160, 178), 0.95, "minor", ("drum n bass", "dnb", "jungle", "breakbeat")),
    "etude": Form("4/4", (100, 140), 0.6, words=("study", "exercise")),
    "folk": Form("4/4", (90, 130), 0.5, words=("folksong", "folk song", "country", "bluegrass", "shanty")),
    "fugue": Form("4/4", (76, 104), 0.5, words=("invention", "canon", "counterpoint", "baroque")),
    "funk": Form("4/4", (95, 118), 0.8, words=("funky", "groove")),
    "hip hop": Form("4/4", (82, 98), 0.6, "minor", ("hiphop", "boom bap", "rap")),
    "hornpipe": Form("4/4", (140, 180), 0.7),
    "house": Form("4/4", (120, 128), 0.8, words=("deep house", "electronic", "edm", "dance music")),
    "jazz": Form("4/4", (110, 180), 0.6, words=("jazzy", "swing", "bebop", "bop", "big band")),
    "jig": Form("6/8", (150, 190), 0.8, words=("gigue", "giga", "irish jig")),
    "lo-fi": Form("4/4", (68, 88), 0.25, words=("lofi", "lo fi", "chillhop", "study beats", "chillout", "chill")),
    "lullaby": Form("3/4", (60, 80), 0.1, "major", ("berceuse", "cradle song")),
    "march": Form("4/4", (108, 124), 0.7, "major", ("marching", "military", "parade")),
    "mazurka": Form("3/4", (120, 150), 0.6),
    "metal": Form("4/4", (120, 190), 1.0, "minor", ("heavy metal", "thrash")),
    "minuet": Form("3/4", (100, 126), 0.4, words=("menuet", "menuetto", "minuetto")),
    "nocturne": Form("6/8", (56, 76), 0.2, words=("notturno", "serenade")),
    "polka": Form("2/4", (110, 132), 0.8, "major"),
    "pop": Form("4/4", (96, 128), 0.6, words=("pop song", "indie")),
    "punk": Form("4/4", (160, 200), 1.0),
    "ragtime": Form("2/4", (80, 104), 0.6, "major", ("rag", "stride")),
    "reel": Form("4/4", (180, 220), 0.9, words=("irish reel", "hoedown")),
    "reggae": Form("4/4", (70, 90), 0.5, words=("dub", "ska", "calypso", "soca")),
    "rock": Form("4/4", (110, 145), 0.85, words=("rocking", "rock and roll", "rock n roll", "grunge")),
    "salsa": Form("4/4", (160, 200), 0.9, words=("mambo", "merengue", "cha cha", "rumba")),
    "scherzo": Form("3/4", (160, 220), 0.8),
    "siciliana": Form("6/8", (70, 100), 0.3, words=("siciliano", "barcarolle", "pastorale")),
    "slip jig": Form("9/8", (150, 190), 0.8),
    "strathspey": Form("4/4", (110, 140), 0.6),
    "sarabande": Form("3/4", (60, 76), 0.2),
    "synthwave": Form("4/4", (84, 112), 0.6, "minor", ("retrowave", "vaporwave")),
    "tango": Form("4/4", (112, 132), 0.7, "minor", ("milonga", "habanera")),
    "techno": Form("4/4", (124, 140), 0.9, "minor", ("trance", "rave", "acid")),
    "trap": Form("4/4", (65, 80), 0.7, "minor", ("drill",)),
    "waltz": Form("3/4", (84, 160), 0.5, words=("valse", "viennese waltz", "laendler", "landler")),
}

# Quarter notes per minute, after the usual metronome markings.
TEMPO_WORDS: dict[str, tuple[float, float]] = {
    "larghissimo": (20, 40), "grave": (30, 45), "largo": (40, 60), "larghetto": (60, 66), "lento": (45, 60),
    "adagio": (55, 76), "adagietto": (65, 80), "andante": (76, 108), "andantino": (80, 108), "marcia": (83, 90),
    "moderato": (98, 112), "allegretto": (100, 120), "allegro": (116, 156), "vivace": (150, 176),
    "vivacissimo": (170, 184), "presto": (168, 200), "prestissimo": (200, 230),
    "very slow": (40, 56), "extremely slow": (36, 50), "slow": (50, 76), "slowly": (50, 76), "downtempo": (60, 90),
    "dirge": (40, 56), "relaxed": (66, 92), "laid back": (66, 92), "leisurely": (70, 92), "unhurried": (66, 92),
    "midtempo": (92, 114), "mid tempo": (92, 114), "medium tempo": (92, 114), "moderate": (92, 114),
    "walking": (90, 120), "upbeat": (116, 144), "uptempo": (120, 160), "up tempo": (120, 160), "lively": (120, 152),
    "brisk": (120, 150), "quick": (124, 160), "fast": (132, 172), "rapid": (140, 180), "racing": (150, 190),
    "very fast": (160, 200), "extremely fast": (176, 220), "breakneck": (176, 220), "frantic": (160, 200),
}

# Beside a form these are relative: a slow jig is still faster than a slow lullaby. Factors on the form's own range.
RELATIVE_TEMPO: dict[str, float] = {
    "extremely slow": 0.5, "very slow": 0.6, "slow": 0.74, "slowly": 0.74, "downtempo": 0.8, "dirge": 0.5,
    "relaxed": 0.85, "laid back": 0.85, "leisurely": 0.85, "unhurried": 0.85, "midtempo": 1.0, "mid tempo": 1.0,
    "medium tempo": 1.0, "moderate": 1.0, "upbeat": 1.1, "uptempo": 1.15, "up tempo": 1.15, "lively": 1.1, "brisk": 1.1,
    "quick": 1.15, "fast": 1.18, "rapid": 1.2, "racing": 1.25, "very fast": 1.3, "extremely fast": 1.4,
    "breakneck": 1.4, "frantic": 1.3,
}

# word -> (mode or None, energy or None)
MOODS: dict[str, tuple[str | None, float | None]] = {
    **dict.fromkeys(
        "sad melancholic melancholy mournful sorrowful gloomy somber sombre tragic lamenting lament grieving wistful "
        "lonely nostalgic bittersweet bleak depressing funereal heartbroken".split(), ("minor", 0.25)),
    **dict.fromkeys("dark mysterious eerie spooky haunting ominous sinister creepy brooding".split(), ("minor", 0.4)),
    **dict.fromkeys("angry aggressive furious tense menacing dramatic fierce stormy".split(), ("minor", 0.9)),
    **dict.fromkeys(
        "happy cheerful joyful joyous merry jolly playful bright sunny festive jaunty bouncy uplifting".split(),
        ("major", 0.7)),
    **dict.fromkeys("triumphant heroic glorious majestic victorious ecstatic euphoric".split(), ("major", 0.85)),
    **dict.fromkeys("sweet warm hopeful romantic tender pastoral innocent dolce".split(), ("major", 0.3)),
    **dict.fromkeys(
        "calm calming gentle soft quiet peaceful serene soothing relaxing relaxed sleepy dreamy mellow delicate "
        "tranquil meditative ethereal sparse".split(), (None, 0.15)),
    **dict.fromkeys("energetic lively driving powerful intense wild loud exciting vigorous epic".split(), (None, 0.9)),
}

_MINOR_MODES = ("minor", "min", "m", "moll", "aeolian", "dorian", "phrygian", "locrian")
_MAJOR_MODES = ("major", "maj", "dur", "ionian", "lydian", "mixolydian")
_BEATS = (1, 2, 4, 8, 16, 32)

_NUMBER_BPM = re.compile(r"(?<![\d.])(\d{1,4}(?:\.\d+)?)\s*-?\s*(?:b\.?p\.?m\b|beats?\s+(?:per|a)\s+minute)", re.I)
_BPM_NUMBER = re.compile(r"\b(?:bpm|tempo(?:\s+of)?)\s*[:=]?\s*(\d{2,4}(?:\.\d+)?)(?![\d/])", re.I)
_AT_NUMBER = re.compile(r"\bat\s+([4-9]\d|1\d\d|2[0-4]\d)(?=\s*(?:$|[,;.!)]|in\b|and\b))", re.I)  # "waltz at 120"
_METRE = re.compile(r"(?<![\d/])(\d{1,2})\s*/\s*(\d{1,2})(?![\d/])")
_SPOKEN_METRE = re.compile(
    r"\b(two|three|four|five|six|seven|nine|twelve)[ -](two|four|eight)\s+(?:time|metre|meter)\b", re.I)
_SPOKEN = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "twelve": 12}
# A tonic is a capital letter, except before a spelled mode ("a minor third" is music, so a lone "a major" needs "in").
_KEY = re.compile(
    r"\b(?P<tonic>[A-Ga-g])(?P<sign>\s?(?:[#♯b♭](?![a-z])|-?\s?sharp\b|-?\s?flat\b))?"
    r"[\s-]?(?P<mode>minor|min|aeolian|dorian|phrygian|locrian|major|maj|ionian|lydian|mixolydian)\b"
    r"(?!\s+(?:key|keys|mode|scale|chords?)\b)", re.I)
_CHORD_KEY = re.compile(r"(?:(?<=\s)|(?<=^)|(?<=\())(?P<tonic>[A-G])(?P<sign>[#♯b♭]?)m(?![\w'])")
_PLAIN_KEY = re.compile(r"\b(?:in(?:\s+the\s+key\s+of)?|key(?:\s+of)?)\s*[:=]?\s*(?P<tonic>[A-G])(?P<sign>[#♯b♭]?)"
                        r"(?=$|[\s,.;)])(?!\s*(?:-?\s?(?:sharp|flat))\b)")


def plan_prompt(prompt: Prompt) -> MusicalPlan:
    """The prompt's fields, and for those that are not set what its text says. Raises `UserError` on impossible ones."""
    said = parse_prompt(prompt.text)
    bpm, bpm_range = said.bpm, said.bpm_range
    if prompt.bpm is not None:
        bpm = check_bpm(prompt.bpm)
        bpm_range = (bpm, bpm)
    key = check_key(prompt.key) if prompt.key is not None else said.key
    metre = check_metre(prompt.metre) if prompt.metre is not None else said.metre
    mode = key.split()[1] if key else said.mode
    return dataclasses.replace(said, bpm=bpm, bpm_range=bpm_range, key=key, mode=mode, metre=metre)


def parse_prompt(text: str) -> MusicalPlan:
    """What free text says. A number that names no possible tempo or metre ("9000 bpm") raises `UserError`."""
    words = _plain(text)
    form = _find_form(words)
    implied = FORMS[form] if form else None
    key = _find_key(text)
    tempo = _tempo_word(words)
    moods = [MOODS[word] for word in words.split() if word in MOODS]
    modes = [mode for mode, _ in moods if mode]
    energies = [energy for _, energy in moods if energy is not None]
    mode = key.split()[1] if key else modes[0] if modes else None
    bpm = _find_bpm(text)
    bpm_range = (bpm, bpm) if bpm is not None else _tempo_range(tempo, implied)
    if not energies:
        energies = [implied.energy] if implied else []
        if tempo:
            energies.append(min(max((sum(TEMPO_WORDS[tempo]) / 2 - 40) / 140, 0.0), 1.0))
    return MusicalPlan(
        bpm=bpm, bpm_range=bpm_range, key=key,
        mode=mode or _lone_mode(words) or (implied.mode if implied else None),
        metre=_find_metre(text) or (implied.metre if implied else None), form=form,
        energy=sum(energies) / len(energies) if energies else None,
    )


def check_bpm(bpm: float) -> float:
    """`bpm` as a float, if it is a tempo that music is played at."""
    try:
        value = float(bpm)
    except (TypeError, ValueError):
        raise UserError(f"bpm {bpm!r} is no number; give beats per minute, e.g. 90") from None
    if not MIN_BPM <= value <= MAX_BPM:
        raise UserError(f"bpm {value:g} is out of range; give {MIN_BPM:g} to {MAX_BPM:g} beats per minute")
    return value


def check_key(key: str) -> str:
    """"am", "A min", "F# major", ... -> "A minor", "F# major"; a bare tonic is major. Raises `UserError`."""
    text = " ".join(key.replace("♯", "#").replace("♭", "b").replace("-", " ").split())
    text = re.sub(r"(?i)\s*\bsharp\b", "#", re.sub(r"(?i)\s*\bflat\b", "b", text))
    match = re.fullmatch(r"([A-Ga-g])([#b]?)\s*([A-Za-z]*)", text)
    if match:
        tonic = match[1].upper() + match[2]
        word = match[3] if match[3] in ("m", "M") else match[3].lower()
        if word in _MINOR_MODES:
            return f"{tonic} minor"
        if word in ("", "M", *_MAJOR_MODES):
            return f"{tonic} major"
    raise UserError(f"key {key!r} is unknown; give a tonic A to G with # or b, and major or minor, "
                    "e.g. 'A minor' or 'F# major'")


def check_metre(metre: str) -> str:
    """"6 / 8" -> "6/8"; "common time" -> "4/4". Raises `UserError`."""
    text = metre.strip().lower()
    spoken = {"c": "4/4", "common": "4/4", "common time": "4/4", "cut time": "2/2", "alla breve": "2/2",
              "waltz": "3/4", "march": "4/4", "jig": "6/8"}
    if text in spoken:
        return spoken[text]
    match = re.fullmatch(r"(\d{1,2})\s*/\s*(\d{1,2})", text)
    if match and 1 <= int(match[1]) <= 32 and int(match[2]) in _BEATS:
        return f"{int(match[1])}/{int(match[2])}"
    raise UserError(f"metre {metre!r} is none; give beats over a note value of {', '.join(map(str, _BEATS))}, "
                    "e.g. '3/4' or '6/8'")


def read_prompt_file(path: str | Path) -> list[Prompt]:
    """Prompts from a file: one text a line, or one JSON object a line with the fields of `Prompt` (JSONL).

    Blank lines and lines that start with # are passed over. In JSON, `styles` is {"piano": 0.7} or a list of names or
    of [name, weight]; `score` is the path of a MIDI file, seen from the folder of the prompt file.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"no prompt file at {path}") from None
    except (OSError, UnicodeDecodeError) as reason:
        raise UserError(f"{path} cannot be read as UTF-8 text ({reason})") from None
    prompts = []
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if not line.startswith("{"):
            prompts.append(Prompt(text=line))
            continue
        try:
            values = json.loads(line)
        except ValueError as reason:
            raise UserError(f"{path}:{number} is no JSON object ({reason})") from None
        try:
            prompts.append(prompt_from_dict(values, folder=path.parent))
        except UserError as reason:
            raise UserError(f"{path}:{number}: {reason}") from None
    if not prompts:
        raise UserError(f"{path} holds no prompt; write one a line")
    return prompts


def prompt_from_dict(values: dict[str, Any], *, folder: Path = Path(".")) -> Prompt:
    """JSON values -> a `Prompt`, each field checked."""
    known = {field.name for field in dataclasses.fields(Prompt)}
    for name in values:
        if name not in known:
            raise UserError(f"a prompt has no field {name!r}{did_you_mean(name, known)}")
    fields = {name: value for name, value in values.items() if value is not None}
    for name in ("text", "negative"):
        if not isinstance(fields.get(name, ""), str):
            raise UserError(f"{name} must be text, not {fields[name]!r}")
    for name, check in (("bpm", check_bpm), ("key", check_key), ("metre", check_metre), ("seconds", _check_seconds)):
        if name in fields:
            fields[name] = check(fields[name] if name in ("bpm", "seconds") else str(fields[name]))
    if "styles" in fields:
        fields["styles"] = _styles(fields["styles"])
    if "score" in fields:
        fields["score"] = Score.read(folder / str(fields["score"]))
    return Prompt(**fields)


def _check_seconds(seconds: Any) -> float:
    try:
        value = float(seconds)
    except (TypeError, ValueError):
        raise UserError(f"seconds {seconds!r} is no number; give a length such as 8") from None
    if not MIN_SECONDS <= value < float("inf"):
        raise UserError(f"seconds {value:g} is out of range; give a length of at least {MIN_SECONDS:g}, such as 8")
    return value


def _styles(values: Any) -> tuple[tuple[str, float], ...]:
    if isinstance(values, dict):
        pairs = list(values.items())
    elif isinstance(values, list):
        pairs = [(item, 1.0) if isinstance(item, str) else item for item in values]
    else:
        pairs = [values]
    try:
        return tuple((str(name), float(weight)) for name, weight in pairs)
    except (TypeError, ValueError):
        raise UserError(f'styles {values!r} is unreadable; write {{"grand piano": 0.7, "cello": 0.3}}') from None


def _plain(text: str) -> str:
    """Lower-case words with single spaces: "Lo-Fi, Hip-Hop!" -> "lo fi hip hop"; accents are dropped."""
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return " ".join(re.findall(r"[a-z0-9]+", folded))


def _has(words: str, phrase: str) -> int:
    """Where `phrase` stands in `words` as whole words (a plural s is forgiven), or -1."""
    match = re.search(rf"\b{re.escape(_plain(phrase))}(?:s|es)?\b", words)
    return match.start() if match else -1


def _find_form(words: str) -> str | None:
    """The form whose longest name stands in the text; among equals the last one ("a rock waltz" is a waltz)."""
    words = re.sub(r"\brock drums?\b|\bjazz (?=guitar|bass|drums|kit|organ|flute|saxophone|sax)", "", words)
    found = [
        (len(_plain(phrase).split()), at, name)
        for name, form in FORMS.items() for phrase in (name, *form.words) if (at := _has(words, phrase)) >= 0
    ]
    return max(found)[2] if found else None


def _tempo_word(words: str) -> str | None:
    found = [(len(phrase), phrase) for phrase in TEMPO_WORDS if _has(words, phrase) >= 0]
    return max(found)[1] if found else None


def _tempo_range(tempo: str | None, form: Form | None) -> tuple[float, float] | None:
    """An Italian marking says the tempo itself; "slow" and "fast" beside a form scale the form's range."""
    if tempo is None:
        return tuple(map(float, form.bpm_range)) if form else None
    if form is not None and tempo in RELATIVE_TEMPO:
        return tuple(round(bound * RELATIVE_TEMPO[tempo], 1) for bound in form.bpm_range)
    return tuple(map(float, TEMPO_WORDS[tempo]))


def _find_bpm(text: str) -> float | None:
    match = _NUMBER_BPM.search(text) or _BPM_NUMBER.search(text) or _AT_NUMBER.search(text)
    return check_bpm(float(match[1])) if match else None


def _find_metre(text: str) -> str | None:
    spoken = _SPOKEN_METRE.search(text)
    if spoken:
        return f"{_SPOKEN[spoken[1].lower()]}/{_SPOKEN[spoken[2].lower()]}"
    if re.search(r"(?i)\b(?:cut time|alla breve)\b", text):
        return "2/2"
    if re.search(r"(?i)\bcommon time\b", text):
        return "4/4"
    match = _METRE.search(text)
    return check_metre(match[0]) if match else None


def _find_key(text: str) -> str | None:
    for match in _KEY.finditer(text):
        # "a major concert hall": the lower-case article counts as a tonic only after "in", "key of" or with a sign.
        named = re.search(r"(?i)\b(?:in|key of|key)\s*[:=]?\s*$", text[: match.start()])
        if match["tonic"] != "a" or match["sign"] or named:
            return _key(match["tonic"], match["sign"] or "", match["mode"])
    match = _CHORD_KEY.search(text)
    if match:
        return _key(match["tonic"], match["sign"], "minor")
    match = _PLAIN_KEY.search(text)
    return _key(match["tonic"], match["sign"], "major") if match else None


def _key(tonic: str, sign: str, mode: str) -> str:
    sign = sign.strip(" -").lower()
    sign = "#" if sign in ("#", "♯", "sharp") else "b" if sign in ("b", "♭", "flat") else ""
    return f"{tonic.upper()}{sign} {'minor' if mode.lower() in _MINOR_MODES else 'major'}"


def _lone_mode(words: str) -> str | None:
    """"in a minor key", "a minor waltz", "major chords"; "major" alone says too little ("a major storm")."""
    if re.search(r"\bminor\b", words):
        return "minor"
    return "major" if re.search(r"\bmajor (?:key|mode|scale|chords?|third|melody)\b|\bin major\b", words) else None
