"""audiogen edit: a part of a recording made anew; audiogen extend: a recording that goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from audiogen.cli.generate import AUDIO_SUFFIXES, load_engine, parse_style
from audiogen.core.errors import UserError

_FILE = Annotated[Positional[Path], arg(metavar="FILE")]
_TEXT = Annotated[Positional[str], arg(metavar="[PROMPT]", help_behavior_hint="")]
_STYLE = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME:WEIGHT", help_behavior_hint="")]
_CHECKPOINT = Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="(default: the shipped one)")]
_OWN = Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: the checkpoint's)")]
_SEED = Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: drawn, and printed)")]
_NUMBER = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: as heard)")]
_KEY = Annotated[str | None, arg(metavar="KEY", help_behavior_hint="(default: as heard)")]
_SCORE = Annotated[Path | None, arg(metavar="FILE.mid", help_behavior_hint="(default: composed)")]
_OUT = Annotated[Path, arg(aliases=["-o"], metavar="FILE")]


@dataclass(frozen=True)
class Edit:
    """Make a part of a recording anew, so that it goes with what comes before and after.

    Everything outside of the span stays as it is, sample by sample, in all channels. For a style that is played, new
    notes are written in the tempo, key and beat that are heard around the span, unless they are given.

    examples:
      audiogen edit song.wav "grand piano" --from 4 --to 8 -o changed.wav
      audiogen edit rain.flac thunderstorm --from 2 --to 5 --strength 0.5 --seed 7 -o storm.wav
    """

    file: _FILE
    """The recording."""
    text: _TEXT = ""
    """What the new part should be; without words it only goes with the rest."""
    out: _OUT = Path("edited.wav")
    """The new file: .wav, .flac or .ogg."""
    start: Annotated[float, arg(name="from", metavar="SECONDS")] = 0.0
    """Where the new part begins."""
    end: Annotated[float | None, arg(name="to", metavar="SECONDS", help_behavior_hint="(default: the end)")] = None
    """Where it ends."""
    strength: float = 1.0
    """1: all new; below: the less of what was there is changed."""
    style: _STYLE = ()
    """A style of the checkpoint with a weight; several are mixed."""
    bpm: _NUMBER = None
    """Tempo of the new notes."""
    key: _KEY = None
    """Key of the new notes."""
    score: _SCORE = None
    """The new notes, from the start of the span."""
    seed: _SEED = None
    """The same seed gives the same clip."""
    steps: _OWN = None
    """Steps of the sampler; each costs about three of generate's."""
    checkpoint: _CHECKPOINT = None
    """An engine folder or a generator checkpoint of the diffusion family."""

    def run(self) -> int:
        from audiogen.editing import edit

        def make(engine, sound, prompt, seed):
            end = sound.seconds if self.end is None else self.end
            return edit(engine, sound, prompt, start=self.start, end=end, seed=seed, strength=self.strength,
                        steps=self.steps)

        return _run(self, make)


@dataclass(frozen=True)
class Extend:
    """Let a recording go on after its end, or begin earlier.

    For a style that is played, new notes are written in the tempo, key and beat that are heard, unless they are given.

    examples:
      audiogen extend song.wav "grand piano" --seconds 10 -o longer.wav
      audiogen extend rain.flac rain --seconds 5 --before -o earlier.wav
    """

    file: _FILE
    """The recording."""
    text: _TEXT = ""
    """What the new part should be."""
    out: _OUT = Path("extended.wav")
    """The new file: .wav, .flac or .ogg."""
    seconds: Annotated[float, arg(metavar="SECONDS")] = 8.0
    """How much is added."""
    before: bool = False
    """Add it before the beginning."""
    style: _STYLE = ()
    """A style of the checkpoint with a weight; several are mixed."""
    bpm: _NUMBER = None
    """Tempo of the new notes."""
    key: _KEY = None
    """Key of the new notes."""
    score: _SCORE = None
    """The new notes, from where the new part begins."""
    seed: _SEED = None
    """The same seed gives the same clip."""
    steps: _OWN = None
    """Steps of the sampler; each costs about three of generate's."""
    checkpoint: _CHECKPOINT = None
    """An engine folder or a generator checkpoint of the diffusion family."""

    def run(self) -> int:
        from audiogen.editing import extend

        def make(engine, sound, prompt, seed):
            return extend(engine, sound, prompt, seconds=self.seconds, before=self.before, seed=seed, steps=self.steps)

        return _run(self, make)


def _run(verb: Edit | Extend, make) -> int:
    import secrets

    from audiogen.conditioning.prompts import check_bpm, check_key
    from audiogen.core.audio import Audio
    from audiogen.core.interfaces import Prompt
    from audiogen.core.score import Score

    if verb.out.suffix.lower() not in AUDIO_SUFFIXES:
        raise UserError(f"{verb.out}: the new file must end in {', '.join(AUDIO_SUFFIXES)}")
    if verb.out.resolve() == verb.file.resolve():
        raise UserError(f"{verb.out} would replace its own source; choose another -o")
    prompt = Prompt(
        text=verb.text.strip(), styles=tuple(parse_style(word) for word in verb.style),
        bpm=None if verb.bpm is None else check_bpm(verb.bpm), key=None if verb.key is None else check_key(verb.key),
        score=None if verb.score is None else Score.read(verb.score),
    )
    sound = Audio.read(verb.file)
    engine = load_engine(verb.checkpoint)
    seed = secrets.randbelow(2**31) if verb.seed is None else verb.seed
    made = make(engine, sound, prompt, seed)
    made.save(verb.out)
    span = made.made_by["edit"]
    print(f"{verb.out}  {made.seconds:.2f} s, new from {span['from']:.2f} to {span['to']:.2f} s, seed {seed}")
    return 0
