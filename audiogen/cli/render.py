"""audiogen render: scores played with recorded notes or a soundfont; pairs of notes and audio to train on."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from audiogen.core.errors import UserError


@dataclass(frozen=True)
class Render:
    """Play scores with recorded notes, or with a soundfont: FLAC + MIDI + JSON, ready for "audiogen scan".

    examples:
      audiogen render tunes/ --notes notes/ --style cello -o rendered/
      audiogen render tune.mid --soundfont /usr/share/sounds/sf2/FluidR3_GM.sf2 -o rendered/
    """

    scores: Annotated[Positional[Path], arg(metavar="SCORES")]
    """A MIDI file, or a folder of them (a metadata.csv there gives captions, licences and splits)."""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
    """Where the clips go."""
    notes: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: none)")] = None
    """A folder of single recorded notes: metadata.csv, or names such as cello/cello_A2.flac."""
    soundfont: Annotated[Path | None, arg(metavar="SF2", help_behavior_hint="(default: none)")] = None
    """A soundfont, played by FluidSynth."""
    style: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: as the score names them)")] = None
    """Play everything on this instrument."""
    seconds: Annotated[float | None, arg(metavar="SECONDS", help_behavior_hint="(default: the whole score)")] = None
    """Cut the scores into clips of this length."""
    sample_rate: Annotated[int, arg(metavar="HZ")] = 22050
    """Of the clips."""
    workers: Annotated[int, arg(metavar="INT")] = 1
    """Processes."""
    ray: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="(default: this machine)")] = None
    """Address of a Ray cluster that does the work (auto: the one that is running); all its machines see the folders."""

    def run(self) -> int:
        from rich.progress import Progress

        from audiogen.core.parallel import parallel

        if (self.notes is None) == (self.soundfont is None):
            raise UserError("give either --notes FOLDER (recorded notes) or --soundfont FILE.sf2")
        if self.seconds is not None and not self.seconds >= 1:
            raise UserError(f"--seconds {self.seconds:g} is too short; give at least 1")
        if self.workers < 1:
            raise UserError(f"--workers {self.workers} must be at least 1")
        here = self._absolute()  # other machines stand elsewhere
        _files.cache_clear()  # the folders may have changed since this process last looked
        _player.cache_clear()
        files = _files(here)[0]
        _player(here)  # what is wrong with the notes is said now
        with Progress(transient=True, disable=not sys.stderr.isatty()) as progress:
            bar = progress.add_task("rendering", total=len(files))
            results = parallel(_render, [(here, path) for path in files], workers=min(self.workers, len(files)),
                               crashed="its process died", ray=self.ray, done=lambda *_: progress.advance(bar))
        if len(files) == 1 and isinstance(results[0], str):
            raise UserError(results[0])
        skipped = [f"{path.name}: {result}" for path, result in zip(files, results, strict=True)
                   if isinstance(result, str)]
        clips = sum(result for result in results if isinstance(result, int))
        for line in skipped:
            print(f"skipped {line}")
        print(
            f"{clips} clips in {self.out}, of {len(files) - len(skipped)} scores"
            + (f"; {len(skipped)} skipped" if skipped else "")
        )
        return 0 if clips else 1

    def _absolute(self) -> Render:
        paths = {name: getattr(self, name) for name in ("scores", "out", "notes", "soundfont")}
        return replace(self, ray=None, **{name: path and path.absolute() for name, path in paths.items()})

    def files(self) -> tuple[list[Path], dict[Path, dict[str, str]]]:
        """The MIDI files, and what metadata.csv says about each."""
        import csv

        if self.scores.is_file():
            return [self.scores], {}
        if not self.scores.is_dir():
            raise UserError(f"no score or folder of scores at {self.scores}")
        files = sorted(path for path in self.scores.rglob("*") if path.suffix.lower() in (".mid", ".midi"))
        if not files:
            raise UserError(f"{self.scores} holds no MIDI files (.mid, .midi)")
        table, facts = self.scores / "metadata.csv", {}
        if table.is_file():
            with open(table, newline="", encoding="utf-8-sig") as stream:
                facts = {
                    (self.scores / row["file"]).resolve(): row for row in csv.DictReader(stream) if row.get("file")
                }
        return files, facts

    def player(self):
        """-> a function score -> (audio (time,), styles, licences, credits)."""
        import numpy as np

        from audiogen.conditioning.instruments import find_instrument, instrument
        from audiogen.data.notes import read_notes
        from audiogen.data.render import Sampler, limit, render_soundfont

        wanted = instrument(self.style) if self.style else None
        if self.soundfont is not None:

            def play_soundfont(score):
                program = wanted.program if wanted else None
                names = [wanted.name] if wanted else list(filter(None, score.instruments))
                return (
                    render_soundfont(score, self.soundfont, program, sample_rate=self.sample_rate),
                    names,
                    set(),
                    set(),
                )

            return play_soundfont
        recorded = read_notes(self.notes)
        samplers: dict[str, Sampler] = {}

        def play_notes(score):
            mix, names, licences, credits = np.zeros(1, dtype=np.float32), [], set(), set()
            for part in score.instruments:
                row = wanted or find_instrument(part)
                if row is None:
                    raise UserError(f"its part {part!r} is no instrument that audiogen knows; choose one with --style")
                if row.name not in samplers:
                    samplers[row.name] = Sampler.from_folder(recorded, row.name, sample_rate=self.sample_rate)
                audio = samplers[row.name].render(score.only(part))
                mix = np.pad(mix, (0, max(0, len(audio) - len(mix))))
                mix[: len(audio)] += audio
                names += [row.name] if row.name not in names else []
                licences |= {note.licence for note in samplers[row.name].notes if note.licence}
                credits |= {note.attribution for note in samplers[row.name].notes if note.attribution}
            return limit(mix / max(len(names), 1) ** 0.5), names, licences, credits

        return play_notes

    def render(self, path: Path) -> int:
        """Write the clips of one score; -> how many."""
        from audiogen.core.score import Score
        from audiogen.data.render import write_clip

        score, facts, play = Score.read(path), _files(self)[1].get(path.resolve(), {}), _player(self)
        if not score.notes:
            raise UserError(f"{path} holds no notes")
        length = self.seconds or score.seconds
        starts = [i * length for i in range(max(1, int(score.seconds / length)))] if self.seconds else [0.0]
        written = 0
        for index, start in enumerate(starts):
            part = score.between(start, start + length) if self.seconds else score
            if not part.notes:
                continue
            audio, styles, licences, credits = play(part)
            if self.seconds:
                audio = audio[: round(length * self.sample_rate)]
            sidecar = {
                "styles": styles,
                "text": facts.get("caption") or ", ".join([*styles, score.title.replace("_", " ")]),
                "bpm": round(score.bpm, 3),
                "key": score.key or facts.get("key_estimate"),
                "metre": score.metre,
                "source_group": facts.get("source_group") or path.stem,
                "split": facts.get("split"),
                "licence": "; ".join(sorted({*licences, *filter(None, [facts.get("licence")])})),
                "attribution": "; ".join(sorted({*credits, *filter(None, [facts.get("attribution")])})),
            }
            relative = path.relative_to(self.scores) if self.scores.is_dir() else Path(path.name)
            name = f"{path.stem}_{index:03d}.flac" if self.seconds else f"{path.stem}.flac"
            write_clip(self.out / relative.parent / name, audio, self.sample_rate, sidecar=sidecar, score=part)
            written += 1
        return written


@lru_cache(maxsize=1)
def _files(render: Render) -> tuple[list[Path], dict[Path, dict[str, str]]]:
    return render.files()


@lru_cache(maxsize=1)
def _player(render: Render):
    return render.player()


def _render(task: tuple[Render, Path]) -> int | str:
    """How many clips a score gave, or why none."""
    render, path = task
    try:
        return render.render(path)
    except UserError as reason:
        return str(reason)
