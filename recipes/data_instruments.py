"""The training set of the shipped model: about 2.5 hours of single instruments playing known notes, and of textures.

What it makes, in --out:
    <style>/*.flac + .mid + .json     every pitched and drum style, about 6 minutes each: half tunes by rule, half real
                                      tunes (open-licensed scores), played by the sampler with recorded notes
    textures/<style>/*.flac + .json   rain, sea waves, crackling fire, helicopter, chainsaw: cut from ESC-10
    notes/<family>/*.flac + .json     the recorded notes themselves, for probes of timbre
    CREDITS.json                      one line for each source and licence
All 22.05 kHz, mono, 16 bit. Only CC0, public-domain, Unlicense and CC-BY material goes in. Train clips use train notes
and train tunes only; valid and test clips use that split's tunes, and its notes besides the train ones.

Run (about 4 minutes on one core; --workers for more of them, --ray auto for a Ray cluster: the files are the same):

    python recipes/data_instruments.py --shared ../shared/data --out data/rendered

Smoke (10 seconds): add `--styles cello --minutes 0.5 --no-notes --no-textures`.
"""

from __future__ import annotations

import csv
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from audiogen.composers.harmony import random_key  # noqa: E402  (runs outside an installed audiogen)
from audiogen.composers.rules import RuleComposer  # noqa: E402
from audiogen.conditioning.instruments import INSTRUMENTS, Instrument, find_instrument  # noqa: E402
from audiogen.core.audio import Audio  # noqa: E402
from audiogen.core.errors import UserError  # noqa: E402
from audiogen.core.interfaces import Prompt  # noqa: E402
from audiogen.core.parallel import parallel  # noqa: E402
from audiogen.core.score import Score  # noqa: E402
from audiogen.data.arrange import arrange  # noqa: E402
from audiogen.data.notes import RecordedNote, is_open, read_notes, voices  # noqa: E402
from audiogen.data.render import Sampler, limit, resample, write_clip  # noqa: E402

TEXTURES = ("rain", "sea waves", "crackling fire", "helicopter", "chainsaw")
TEXTURE_LOUDNESS = -23.0  # LUFS
# (form, weight): what the rule-composed half consists of
FORMS = {
    "ballad": 2,
    "waltz": 2,
    "jig": 1,
    "march": 2,
    "blues": 2,
    "folk song": 2,
    "ragtime": 1,
    "lo-fi": 1,
    "techno": 1,
    "chorale": 2,
    "ambient": 1,
    "jazz": 1,
    "rock": 1,
    "etude": 2,
    "minuet": 1,
    "lullaby": 1,
    "tango": 1,
    "pop song": 1,
}
DRUM_FORMS = (
    "rock",
    "rock",
    "pop song",
    "techno",
    "house",
    "waltz",
    "march",
    "blues",
    "jazz",
    "lo-fi",
    "hip hop",
    "funk",
    "disco",
    "jig",
    "ballad",
)
MOODS = {
    "major": ("happy", "bright", "warm", "cheerful", "gentle", "playful", "hopeful", ""),
    "minor": ("sad", "melancholic", "dark", "wistful", "dramatic", "mysterious", "lonely", ""),
}


@dataclass(frozen=True)
class DataInstruments:
    """Render the training set of the shipped model."""

    shared: Path  # the folder that holds instruments/, esc10/ and symbolic/
    out: Path
    styles: tuple[str, ...] = ()  # only these instruments; none named: all
    minutes: float = 6.0  # of train clips an instrument
    valid_seconds: float = 32.0
    test_seconds: float = 40.0
    sample_rate: int = 22050
    seed: int = 0
    notes: bool = True  # also the single recorded notes
    textures: bool = True
    workers: int = 1  # processes
    ray: str | None = None  # address of a Ray cluster that does the work; all its machines see the folders

    def run(self) -> int:
        names = self.styles or tuple(INSTRUMENTS)
        for name in names:
            if find_instrument(name) is None:
                raise UserError(f"no instrument is called {name!r}; known: {', '.join(INSTRUMENTS)}")
        recipe = replace(self, shared=self.shared.absolute(), out=self.out.absolute())  # other machines stand elsewhere

        def tell(index: int, made: Any) -> None:
            print(_said(names[index], made), flush=True)

        done = parallel(_render, [(recipe, name) for name in names], workers=min(self.workers, len(names)),
                        crashed=None, ray=self.ray, done=tell)
        if None in done:
            raise UserError(f"{names[done.index(None)]} was not rendered: its process died")
        credits: Counter[tuple[str, str, str]] = Counter()
        for _, credit in done:
            credits.update(credit)
        if self.textures:
            self._textures(credits)
        if self.notes:
            self._notes(_recorded(self.shared), credits)
        lines = [
            {"source": source, "licence": licence, "credit": credit, "items": items}
            for (source, licence, credit), items in sorted(credits.items())
        ]
        (self.out / "CREDITS.json").write_text(json.dumps(lines, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return 0

    def instrument(self, name: str) -> tuple[Counter[str], Counter[tuple[str, str, str]]]:
        """Write one style's clips; seconds by split, and what they are made of."""
        recorded, tunes = _recorded(self.shared), _tunes(self.shared / "symbolic")
        seconds: Counter[str] = Counter()
        credits: Counter[tuple[str, str, str]] = Counter()
        splits = {"train": 60 * self.minutes, "valid": self.valid_seconds, "test": self.test_seconds}
        for split, wanted in splits.items():
            for clip_seconds in self._instrument(find_instrument(name), split, wanted, recorded, tunes, credits):
                seconds[split] += clip_seconds
        return seconds, credits

    def _instrument(
        self,
        row: Instrument,
        split: str,
        wanted: float,
        recorded: list[RecordedNote],
        tunes: list[_Tune],
        credits: Counter,
    ) -> Iterator[float]:
        """Write one style's clips of one split; yields their lengths."""
        usable = [note for note in recorded if note.split in ("train", split)]
        found = list(voices(usable, row).items())
        if not found:
            raise UserError(f"no recorded notes of {row.name!r} in {self.shared / 'instruments'}")
        own_tunes = [tune for tune in tunes if tune.split == split and (not row.drum or tune.drums)]
        samplers: dict[tuple[str, int], Sampler] = {}
        made, index = 0.0, 0
        while made < wanted - 4:
            rng = random.Random(f"{self.seed}/{row.name}/{split}/{index}")
            label, notes = found[index // 2 % len(found)]
            kit = index % 6 if row.name == "TR-808 drums" else 0
            if (label, kit) not in samplers:
                samplers[label, kit] = Sampler(row, notes, sample_rate=self.sample_rate, label=label, seed=kit)
            seconds = rng.uniform(16.0, 20.0)
            clip = self._real(row, own_tunes, seconds, rng) if index % 2 else None
            score, sidecar = clip or self._composed(row, seconds, rng, unique=f"{row.name}/{split}/{index}")
            audio = samplers[label, kit].render(score, seconds=seconds)
            voice = label.split(" (")[0]
            sidecar |= {"styles": [row.name], "voice": label, "split": split, "seconds": round(seconds, 3)}
            sidecar["text"] = _caption(row, voice, sidecar, rng)
            licences = {(note.source, note.licence, note.attribution) for note in notes}
            for licence in licences:
                credits[licence] += 1
            if "tune_licence" in sidecar:
                credits[sidecar["tune_source"], sidecar["tune_licence"], sidecar["tune_credit"]] += 1
            sidecar["licence"] = "; ".join(sorted({licence for _, licence, _ in licences}))
            sidecar["attribution"] = "; ".join(sorted({credit for _, _, credit in licences}))
            slug = _slug(row.name)
            write_clip(
                self.out / slug / f"{slug}_{split}_{index:03d}.flac",
                audio,
                self.sample_rate,
                sidecar=sidecar,
                score=score,
            )
            made, index = made + seconds, index + 1
            yield seconds

    def _composed(self, row: Instrument, seconds: float, rng: random.Random, *, unique: str) -> tuple[Score, dict]:
        mode = rng.choice(("major", "minor"))
        form = rng.choice(DRUM_FORMS) if row.drum else rng.choices(list(FORMS), list(FORMS.values()))[0]
        mood = rng.choice(("driving", "gentle", "", "")) if row.drum else rng.choice(MOODS[mode])
        bpm = float(rng.randint(60, 170))
        metre = rng.choice((None, None, None, "3/4", "4/4", "6/8"))
        key = None if row.drum else random_key(mode, rng)
        prompt = Prompt(text=f"{mood} {form}", styles=((row.name, 1.0),), bpm=bpm, key=key, metre=metre)
        score = RuleComposer().compose(prompt, seconds=seconds, rng=rng).between(0.0, seconds)
        level = rng.uniform(0.72, 1.15)
        score = replace(
            score,
            notes=tuple(
                replace(n, velocity=min(max(round(n.velocity * level + rng.gauss(0, 3)), 15), 127)) for n in score.notes
            ),
        )
        return score, {
            "bpm": bpm,
            "key": key,
            "metre": score.metre,
            "form": form,
            "mood": mood,
            "source_group": f"rules/{unique}",
        }

    def _real(
        self, row: Instrument, tunes: list[_Tune], seconds: float, rng: random.Random
    ) -> tuple[Score, dict] | None:
        """A real tune, if one of a few drawn at random has something to play for the instrument."""
        for _ in range(8 if tunes else 0):
            tune = rng.choice(tunes)
            bpm = float(rng.randint(60, 150))
            score = arrange(tune.score, row, bpm=bpm, seconds=seconds, transpose=rng.randrange(12), rng=rng)
            if score is not None:
                return score.between(0.0, seconds), {
                    "bpm": bpm,
                    "key": score.key,
                    "metre": score.metre,
                    "form": tune.style,
                    "source_group": tune.group,
                    "tune_source": tune.source,
                    "tune_licence": tune.licence,
                    "tune_credit": tune.credit,
                    "title": tune.title,
                }
        return None

    def _textures(self, credits: Counter) -> None:
        with open(self.shared / "esc10" / "metadata.csv", newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if row["label"] in TEXTURES and is_open(row["licence"])]
        for row in rows:
            read = Audio.read(
                self.shared / "esc10" / row["file"], seconds=float(row["active_seconds"] or row["seconds"])
            )
            audio = resample(read.samples.mean(0).numpy(), read.sample_rate, self.sample_rate)
            audio = limit(_levelled(audio, self.sample_rate, TEXTURE_LOUDNESS))
            fade = round(0.01 * self.sample_rate)
            audio[-fade:] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
            sidecar = {name: row[name] for name in ("split", "licence", "attribution", "source_group", "title")}
            sidecar |= {"styles": [row["label"]], "text": row["caption"], "url": row["freesound_url"]}
            credits[row["source"], row["licence"], row["attribution"]] += 1
            stem = Path(row["file"]).stem
            write_clip(
                self.out / "textures" / _slug(row["label"]) / f"{stem}.flac", audio, self.sample_rate, sidecar=sidecar
            )
        print(f"textures: {len(rows)} clips", flush=True)

    def _notes(self, recorded: list[RecordedNote], credits: Counter) -> None:
        style_of = {
            note.path: row.name
            for row in INSTRUMENTS.values()
            for part in voices(recorded, row).values()
            for note in part
        }
        for note in recorded:
            read = Audio.read(note.path)
            audio = resample(read.samples.mean(0).numpy(), read.sample_rate, self.sample_rate)
            audio = limit(_levelled(audio, self.sample_rate, -20.0))
            sidecar = {
                "styles": [style_of.get(note.path, note.name)],
                "text": note.caption,
                "split": note.split,
                "recorded": note.name,
                "pitch": None if note.pitch is None else round(note.pitch, 2),
                "velocity": note.velocity,
                "articulation": note.articulation,
                "licence": note.licence,
                "attribution": note.attribution,
                "source_group": note.group,
            }
            credits[note.source, note.licence, note.attribution] += 1
            write_clip(
                self.out / "notes" / note.path.parent.name / f"{note.path.stem}.flac",
                audio,
                self.sample_rate,
                sidecar=sidecar,
            )
        print(f"notes: {len(recorded)}", flush=True)


def _render(task: tuple[DataInstruments, str]) -> tuple[Counter[str], Counter[tuple[str, str, str]]]:
    recipe, name = task
    return recipe.instrument(name)


def _said(name: str, made: tuple[Counter[str], Counter] | None) -> str:
    return f"{name}: " + ("failed" if made is None else ", ".join(f"{k} {v:.0f} s" for k, v in made[0].items()))


@lru_cache(maxsize=1)
def _recorded(shared: Path) -> list[RecordedNote]:
    """The notes that may be used."""
    return [note for note in read_notes(shared / "instruments") if is_open(note.licence)]


@dataclass(frozen=True)
class _Tune:
    score: Score
    style: str
    split: str
    drums: bool
    group: str
    title: str
    source: str
    licence: str
    credit: str


@lru_cache(maxsize=1)
def _tunes(folder: Path) -> list[_Tune]:
    """The scores that may be used, read."""
    with open(folder / "metadata.csv", newline="", encoding="utf-8") as stream:
        rows = [
            row for row in csv.DictReader(stream) if is_open(row["licence"]) and not row["licence"].startswith("BSD")
        ]
    found = []
    for row in rows:
        score = Score.read(folder / row["file"])
        found.append(
            _Tune(
                score,
                row["style"].lower(),
                row["split"],
                any(note.drum for note in score.notes),
                row["source_group"],
                row["title"],
                row["source"],
                row["licence"],
                row["attribution"],
            )
        )
    return found


def _levelled(audio: np.ndarray, sample_rate: int, loudness: float) -> np.ndarray:
    """At `loudness` LUFS; sounds too short or too quiet to be measured get the like RMS over their loudest 0.3 s."""
    import pyloudnorm

    measured = float("-inf")
    if len(audio) >= 0.4 * sample_rate:
        measured = pyloudnorm.Meter(sample_rate).integrated_loudness(audio.astype(np.float64))
    if not np.isfinite(measured):
        width = min(round(0.3 * sample_rate), len(audio))
        power = np.convolve(audio.astype(np.float64) ** 2, np.ones(width) / width, "valid").max()
        measured = 10 * np.log10(max(power, 1e-10))
    gain = 10 ** ((loudness - measured) / 20)
    return (audio * min(gain, 0.95 / max(float(np.abs(audio).max()), 1e-6) * 2)).astype(np.float32)


def _caption(row: Instrument, voice: str, facts: dict, rng: random.Random) -> str:
    """The truth about a clip in one of many ways."""
    name = (
        rng.choice((row.name, row.name, voice)) if not row.drum else rng.choice((row.name, *row.aliases[:2], row.name))
    )
    bpm = facts["bpm"]
    pace = (
        "slow"
        if bpm < 80
        else "fast"
        if bpm > 138
        else "lively"
        if bpm > 116
        else rng.choice(("moderate", "walking", ""))
    )
    form = rng.choice((facts["form"], facts["form"], "tune" if not row.drum else "beat", ""))
    if form in ("folk", "classical", "romantic", "baroque", "renaissance", "modern", "hymn"):
        form = form if form == "hymn" else f"{form} tune"
    key = facts.get("key") and rng.choice((f"in {facts['key']}", f"in {facts['key']}", ""))
    words = {
        "name": name,
        "pace": rng.choice((pace, pace, "")),
        "mood": facts.get("mood", ""),
        "form": form,
        "key": key or "",
        "bpm": rng.choice((f"{bpm:.0f} bpm", "", "")),
    }
    shapes = (
        "{pace} {mood} {form} on {name} {key}, {bpm}",
        "{name}, {pace} {mood} {form} {key}, {bpm}",
        "{mood} {name} {form} {key}",
        "solo {name} {form}, {pace} {key}",
        "{name} playing {form} {key}, {mood}",
        "{name}",
        "{pace} {name}",
        "{mood} {name}",
    )
    text = rng.choice(shapes).format(**words)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(\s*,\s*)+", ", ", text)
    return re.sub(r"\bplaying(?=,|$|\s*in\b)", "solo", text).strip(" ,")


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


if __name__ == "__main__":
    import tyro

    try:
        sys.exit(tyro.cli(DataInstruments, description=__doc__).run())
    except UserError as reason:
        sys.exit(f"data_instruments: {reason}")
