"""audiogen edit: a part of a recording made anew; audiogen extend: a recording that goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from audiogen.cli.generate import AUDIO_SUFFIXES, load_engine, parse_style
from audiogen.core.errors import UserError


@dataclass(frozen=True)
class Remake:
    """What both verbs are told."""

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """The recording."""
    text: Annotated[Positional[str], arg(metavar="[PROMPT]", help_behavior_hint="")] = ""
    """What the new part should be; without words it only goes with the rest."""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE")] = Path("edited.wav")
    """The new file: .wav, .flac or .ogg."""
    style: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME:WEIGHT", help_behavior_hint="")] = ()
    """A style of the checkpoint with a weight; several are mixed."""
    bpm: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: as heard)")] = None
    """Tempo of the new notes."""
    key: Annotated[str | None, arg(metavar="KEY", help_behavior_hint="(default: as heard)")] = None
    """Key of the new notes."""
    score: Annotated[Path | None, arg(metavar="FILE.mid", help_behavior_hint="(default: composed)")] = None
    """The new notes, from where the new part begins."""
    seed: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: drawn, and printed)")] = None
    """The same seed gives the same clip."""
    steps: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: the checkpoint's)")] = None
    """Steps of the sampler; each costs about three of generate's."""
    checkpoint: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="(default: the shipped one)")] = None
    """An engine folder or a generator checkpoint of the diffusion family."""

    def make(self, engine, sound, prompt, seed):
        raise TypeError("edit and extend each make their own")

    def run(self) -> int:
        import secrets

        from audiogen.conditioning.prompts import check_bpm, check_key
        from audiogen.core.audio import Audio
        from audiogen.core.interfaces import Prompt
        from audiogen.core.score import Score

        if self.out.suffix.lower() not in AUDIO_SUFFIXES:
            raise UserError(f"{self.out}: the new file must end in {', '.join(AUDIO_SUFFIXES)}")
        if self.out.resolve() == self.file.resolve():
            raise UserError(f"{self.out} would replace its own source; choose another -o")
        prompt = Prompt(
            text=self.text.strip(), styles=tuple(parse_style(word) for word in self.style),
            bpm=None if self.bpm is None else check_bpm(self.bpm),
            key=None if self.key is None else check_key(self.key),
            score=None if self.score is None else Score.read(self.score),
        )
        sound = Audio.read(self.file)
        engine = load_engine(self.checkpoint)
        seed = secrets.randbelow(2**31) if self.seed is None else self.seed
        made = self.make(engine, sound, prompt, seed)
        made.save(self.out)
        span = made.made_by["edit"]
        print(f"{self.out}  {made.seconds:.2f} s, new from {span['from']:.2f} to {span['to']:.2f} s, seed {seed}")
        return 0


@dataclass(frozen=True)
class Edit(Remake):
    """Make a part of a recording anew, so that it goes with what comes before and after.

    Everything outside of the span stays as it is, sample by sample, in all channels. For a style that is played, new
    notes are written in the tempo, key and beat that are heard around the span, unless they are given.

    examples:
      audiogen edit song.wav "grand piano" --from 4 --to 8 -o changed.wav
      audiogen edit rain.flac thunderstorm --from 2 --to 5 --strength 0.5 --seed 7 -o storm.wav
    """

    start: Annotated[float, arg(name="from", metavar="SECONDS")] = 0.0
    """Where the new part begins."""
    end: Annotated[float | None, arg(name="to", metavar="SECONDS", help_behavior_hint="(default: the end)")] = None
    """Where it ends."""
    strength: float = 1.0
    """1: all new; below: the less of what was there is changed."""

    def make(self, engine, sound, prompt, seed):
        from audiogen.editing import edit

        end = sound.seconds if self.end is None else self.end
        return edit(engine, sound, prompt, start=self.start, end=end, seed=seed, strength=self.strength,
                    steps=self.steps)


@dataclass(frozen=True)
class Extend(Remake):
    """Let a recording go on after its end, or begin earlier.

    For a style that is played, new notes are written in the tempo, key and beat that are heard, unless they are given.

    examples:
      audiogen extend song.wav "grand piano" --seconds 10 -o longer.wav
      audiogen extend rain.flac rain --seconds 5 --before -o earlier.wav
    """

    seconds: Annotated[float, arg(metavar="SECONDS")] = 8.0
    """How much is added."""
    before: bool = False
    """Add it before the beginning."""

    def make(self, engine, sound, prompt, seed):
        from audiogen.editing import extend

        return extend(engine, sound, prompt, seconds=self.seconds, before=self.before, seed=seed, steps=self.steps)
