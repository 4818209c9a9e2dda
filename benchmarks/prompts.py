"""Are prompts obeyed? Style, tempo, key and notes of generated clips, and their Fréchet distances to real audio.

    python benchmarks/prompts.py --real data/rendered --json benchmarks/results/prompts.json
    python benchmarks/prompts.py --real data/rendered --clips made/ --measure styles        (clips made before)

--real is what recipes/data_instruments.py writes: real notes, phrases played with real notes, textures; each with a
.json that names its styles and split. Clips are generated into --clips as STYLE__NNN.wav with a .json of what was
asked, unless they are there already: STYLE__NNN (tempo and key asked for in words), STYLE__sNNN (a held-out score to be
played, its .mid beside it), and griffin_lim/STYLE__NNN (Griffin-Lim on the very same generated mels).

styles   a linear probe on YAMNet features, trained on real clips of the train split only, never on generated ones;
         beside it the same probe on held-out real clips, and chance
tempo    tempo (within 4 %, and with octaves) and key that librosa hears, against those asked for; the same on held-out
         real clips, which is what the estimators can do
notes    F1 of the notes of the given score found again in the clip (pitch, and onset within 50 ms; only the score's
         pitches are looked for); the same on the real rendering of that score
frechet  distance of generated clips to held-out real ones of the same style, against Griffin-Lim on the same mels, real
         clips of other styles, and one half of the held-out real clips against the other

Every clip is brought to the same RMS level before it is embedded, so loudness says nothing about style.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from audiogen.conditioning.instruments import INSTRUMENTS  # noqa: E402  (runs from a checkout too)
from audiogen.core.audio import Audio  # noqa: E402
from audiogen.core.errors import UserError  # noqa: E402
from audiogen.core.files import whole_file, whole_folder  # noqa: E402
from audiogen.core.interfaces import Prompt  # noqa: E402
from audiogen.core.score import Score  # noqa: E402
from audiogen.signal.notes import note_f1, transcribe_notes  # noqa: E402
from audiogen.signal.resample import RESAMPLER, resample  # noqa: E402
from evaluation.adherence import key_obeyed, listen, tempo_obeyed  # noqa: E402
from evaluation.cache import EmbeddingCache, default_cache  # noqa: E402
from evaluation.embedders.base import Embedder, load_embedder  # noqa: E402
from evaluation.frechet import estimate_frechet, frechet_distance  # noqa: E402
from evaluation.moments import GroupedMoments  # noqa: E402
from evaluation.probe import fit_probe, score_probe  # noqa: E402

LEVEL = 0.1  # RMS of every clip before it is embedded
TEMPOS = (72, 84, 96, 108, 120, 132, 144)
KEYS = ("C major", "G major", "D major", "A major", "F major", "Bb major", "Eb major",
        "A minor", "E minor", "B minor", "D minor", "G minor", "C minor", "F# minor")
MEASURES = ("styles", "tempo", "notes", "frechet")


@dataclass(frozen=True)
class Prompts:
    """Measure how well prompts are obeyed."""

    real: Path
    """Real clips with .json sidecars (styles, split, and bpm, key where they are played from notes)."""
    clips: Path = Path("runs/prompts")
    """Generated clips; made here where there are none yet."""
    gl: Path | None = None
    """Griffin-Lim clips of the same mels (default: griffin_lim/ in --clips)."""
    checkpoint: Path | None = None
    """The engine to measure (default: the shipped one)."""
    measure: tuple[str, ...] = MEASURES
    """styles, tempo, notes, frechet."""
    per_style: int = 8
    seconds: float = 8.0
    seed: int = 1000
    """Of the first clip; clip k of a style has seed + k."""
    styles: tuple[str, ...] = ()
    """Only these (default: all that the checkpoint claims, or that --clips holds)."""
    embedders: tuple[str, ...] = ("yamnet",)
    """The probe sees these side by side; Fréchet distances are taken in each, and in melstats."""
    weights: Path | None = None
    """Folder of the embedders' weights (default: $AUDIOGEN_WEIGHTS)."""
    json: Path | None = None
    """Also write the figures here."""

    def run(self) -> int:
        unknown = set(self.measure) - set(MEASURES)
        if unknown:
            raise UserError(f"--measure {sorted(unknown)[0]!r} is unknown; choose from {', '.join(MEASURES)}")
        real = [clip for clip in read_real(self.real) if not self.styles or clip.style in self.styles]
        names = sorted({clip.style for clip in real})
        if not list(self.clips.glob("*__*")):
            self._generate(real)
        made = read_made(self.clips, names)
        names = sorted({clip.style for clip in made})
        real = [clip for clip in real if clip.style in names]
        result: dict[str, Any] = {"clips": len(made), "styles": names, "seconds": self.seconds} | machine()
        store = EmbeddingCache(default_cache())
        models = [load_embedder(name, weights=self.weights) for name in self.embedders]
        if "styles" in self.measure:
            result["style"] = measure_styles(real, made, models, store, self.seconds)
        if "tempo" in self.measure:
            result["tempo and key"] = {
                name: measure_tempo(clips, self.seconds)
                for name, clips in (("generated", made), ("real, held out", [c for c in real if c.split != "train"]))}
        if "notes" in self.measure:
            result["notes"] = measure_notes(made, self.seconds)
        if "frechet" in self.measure:
            griffin_lim = read_made(self.gl or self.clips / "griffin_lim", names)
            every = {model.name: model for model in (*models, load_embedder("melstats"))}
            result["frechet"] = [measure_frechet(real, made, griffin_lim, model, store, self.seconds)
                                 for model in every.values()]
        store.close()
        print_table(result)
        if self.json:
            with whole_file(self.json) as part:
                part.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return 0

    def _generate(self, real: Sequence[Clip]) -> None:
        from audiogen.pipeline import Engine
        from vocoders.griffin_lim import GriffinLim, GriffinLimConfig

        engine = Engine.from_pretrained(self.checkpoint)
        mels = engine.generator.model.makes == "mel"
        griffin_lim = GriffinLim(GriffinLimConfig(mel=engine.mel)) if mels else None
        with whole_folder(self.clips) as folder:  # all or none: a broken-off run is not taken for a whole one
            self.fill(folder, real, engine, griffin_lim)

    def fill(
        self, folder: Path, real: Sequence[Clip], engine: Any, griffin_lim: torch.nn.Module | None = None
    ) -> None:
        """Clips of every style into `folder`, and the same mels through Griffin-Lim where it is given."""
        known = {clip.style for clip in real}
        for style in self.styles or [style for style in engine.styles if style in known]:
            instrument = INSTRUMENTS.get(style)
            scores = [clip.path.with_suffix(".mid") for clip in real if clip.style == style and clip.split != "train"
                      and clip.path.with_suffix(".mid").is_file() and not getattr(instrument, "drum", False)]
            for k in range(self.per_style):
                pick = random.Random(f"{style} {k}")
                asked: dict[str, Any] = {"style": style}
                text = style
                if instrument is not None:
                    asked["bpm"] = pick.choice(TEMPOS)
                    text = f"{style}, {asked['bpm']} bpm"
                    if not instrument.drum:
                        asked["key"] = pick.choice(KEYS)
                        text = f"{style} in {asked['key']}, {asked['bpm']} bpm"
                prompt = Prompt(text=text, seconds=self.seconds)
                path = folder / f"{slug(style)}__{k:03d}.wav"
                engine.generate(prompt, seed=self.seed + k).save(path)
                path.with_suffix(".json").write_text(json.dumps(asked | {"text": text}) + "\n", encoding="utf-8")
                if griffin_lim is None:
                    continue
                voices = griffin_lim(engine.generate_mel(prompt, seed=self.seed + k))  # the same mel once more
                samples = voices.sum(0)[:, : round(self.seconds * engine.mel.sample_rate)]
                samples = samples * min(1.0, 0.99 / samples.abs().max().item())
                Audio(samples, engine.mel.sample_rate).save(folder / "griffin_lim" / path.name)
            for k, file in enumerate(scores[: max(1, self.per_style // 4)]):
                score = Score.read(file).between(0.0, self.seconds)
                path = folder / f"{slug(style)}__s{k:03d}.wav"
                engine.generate(Prompt(text=style, score=score, seconds=self.seconds), seed=self.seed + k).save(path)
                score.save(path.with_suffix(".mid"))
                asked = {"style": style, "real": str(file.with_suffix(".flac").resolve())}
                path.with_suffix(".json").write_text(json.dumps(asked) + "\n", encoding="utf-8")
            print(f"made {style}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Clip:
    """One file and what is known of it. `split` is "made" for a generated clip."""

    path: Path
    style: str
    split: str
    facts: dict[str, Any]


def slug(style: str) -> str:
    """"TR-808 drums" -> "tr_808_drums"."""
    return "".join(letter if letter.isalnum() else "_" for letter in style.lower())


def read_real(folder: Path) -> list[Clip]:
    """Every audio file below `folder` with a .json of one style and a split."""
    found = []
    for sidecar in sorted(folder.rglob("*.json")):
        audio = next((sidecar.with_suffix(s) for s in (".flac", ".wav") if sidecar.with_suffix(s).is_file()), None)
        facts = json.loads(sidecar.read_text(encoding="utf-8"))
        if audio is not None and isinstance(facts, dict) and len(facts.get("styles", ())) == 1 and "split" in facts:
            found.append(Clip(audio, facts["styles"][0], facts["split"], facts))
    if not found:
        raise UserError(f"{folder} holds no audio with .json sidecars of styles and split; "
                        "make it with recipes/data_instruments.py")
    return found


def read_made(folder: Path, styles: Sequence[str]) -> list[Clip]:
    """STYLE__NNN.wav (or .flac) in `folder`. Raises `UserError` for a style of which there is no real audio."""
    known = {slug(style): style for style in styles}
    found = []
    for path in sorted(p for p in folder.glob("*__*") if p.suffix in (".wav", ".flac")):
        name = slug(path.stem.rpartition("__")[0])
        if name not in known:
            raise UserError(f"{path.name} is of no style with real clips; those are {', '.join(styles)}")
        sidecar = path.with_suffix(".json")
        facts = json.loads(sidecar.read_text(encoding="utf-8")) if sidecar.is_file() else {}
        found.append(Clip(path, known[name], "made", facts))
    if not found:
        raise UserError(f"{folder} holds no clips named STYLE__NNN.wav")
    return found


def pieces(clip: Clip, embedder: Embedder, store: EmbeddingCache, seconds: float, most: int = 3) -> list[Tensor]:
    """Features (windows, dim) of the clip's pieces of `seconds`, each at the same level; a short rest is left out."""
    digest = hashlib.blake2b(clip.path.read_bytes(), digest_size=16).hexdigest()
    made_with = [digest, embedder.name, embedder.version, embedder.weights_sha256, RESAMPLER, seconds, LEVEL]
    key = "prompts 1 " + " ".join(map(str, made_with)) + " "
    audio = None
    found = []
    for index in range(most):
        features = store.get(key + str(index))
        if features is None:
            if audio is None:
                read = Audio.read(clip.path)
                audio = resample(read.samples.mean(0), read.sample_rate, embedder.sample_rate)
            size = round(seconds * embedder.sample_rate)
            piece = audio[index * size : (index + 1) * size]
            if index and len(piece) < size // 2:
                features = torch.zeros(0, embedder.dim)
            else:  # three seconds at least, for the embedders' windows
                piece = torch.nn.functional.pad(piece, (0, max(0, 3 * embedder.sample_rate - len(piece))))
                piece = piece * (LEVEL / piece.square().mean().sqrt().clamp(min=1e-5))
                features = embedder(piece[None].float())[0]
            store.put(key + str(index), features)
        if not len(features):
            break
        found.append(features)
    return found


def pooled(clips: Sequence[Clip], models: Sequence[Embedder], store: EmbeddingCache, seconds: float):
    """-> features (pieces, dims): mean and deviation over the windows of a piece, all embedders; and their styles."""
    rows, styles = [], []
    for clip in clips:
        for parts in zip(*(pieces(clip, model, store, seconds) for model in models), strict=True):
            rows.append(torch.cat([torch.cat([f.mean(0), f.std(0, correction=0)]) if len(f) > 1 else
                                   torch.cat([f[0], torch.zeros_like(f[0])]) for f in parts]))
            styles.append(clip.style)
    return torch.stack(rows), styles


def measure_styles(real, made, models, store, seconds) -> dict[str, Any]:
    """(a) The probe's accuracy on generated and on held-out real clips."""
    made = [clip for clip in made if "real" not in clip.facts]  # those with a given score are measured by their notes
    held = [clip for clip in real if clip.split != "train"]
    phrases = [clip for clip in held if "recorded" not in clip.facts]
    probe = fit_probe(*pooled([clip for clip in real if clip.split == "train"], models, store, seconds))
    result = {"chance": 1.0 / len(probe.classes), "probe": " + ".join(model.name for model in models)}
    for name, clips in (("generated", made), ("real, held out", phrases),
                        ("real single notes, held out", [clip for clip in held if "recorded" in clip.facts])):
        if clips:
            found = score_probe(probe, *pooled(clips, models, store, seconds))
            result[name] = {"accuracy": found.accuracy, "balanced": found.balanced, "n": found.n,
                            "per style": {style: list(row) for style, row in found.per_class.items()},
                            "taken for": found.confusions}
    return result


def measure_tempo(clips: Sequence[Clip], seconds: float) -> dict[str, Any]:
    """(b) Shares of clips in which the tempo and the key asked for are heard."""
    hits: dict[str, list[bool]] = defaultdict(list)
    by_style: dict[str, list[bool]] = defaultdict(list)
    for clip in clips:
        bpm, key = clip.facts.get("bpm"), clip.facts.get("key")
        if bpm is None and key is None:
            continue
        heard = listen(Audio.read(clip.path, seconds=seconds))
        if bpm is not None:
            hits["tempo"].append(tempo_obeyed(bpm, heard.bpm))
            hits["tempo, octaves allowed"].append(tempo_obeyed(bpm, heard.bpm, octaves=True))
            by_style[clip.style].append(hits["tempo, octaves allowed"][-1])
        if key is not None and not getattr(INSTRUMENTS.get(clip.style), "drum", False):
            hits["key"].append(key_obeyed(key, heard.key))
            hits["key, relative allowed"].append(key_obeyed(key, heard.key, relative=True))
    shares = {name: {"share": sum(values) / len(values), "n": len(values)} for name, values in hits.items()}
    return shares | {"tempo by style": {style: [sum(v), len(v)] for style, v in sorted(by_style.items())}}


def measure_notes(made: Sequence[Clip], seconds: float) -> dict[str, Any]:
    """(c) F1 of a given score's notes in the generated clips, and in the real rendering of the same score."""
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for clip in made:
        if "real" not in clip.facts:
            continue
        score = Score.read(clip.path.with_suffix(".mid"))
        for name, path in (("generated", clip.path), ("real", Path(clip.facts["real"]))):
            if path.is_file():
                audio = Audio.read(path, seconds=seconds)
                pitches = {note.pitch for note in score.notes}
                found = transcribe_notes(audio.samples, audio.sample_rate, pitches=pitches)
                rows[name][clip.style].append(note_f1(score.notes, found)[0])
    return {name: {"f1": sum(sum(v) for v in styles.values()) / sum(len(v) for v in styles.values()),
                   "n": sum(len(v) for v in styles.values()),
                   "per style": {style: sum(v) / len(v) for style, v in sorted(styles.items())}}
            for name, styles in rows.items()}


def measure_frechet(real, made, griffin_lim, model, store, seconds) -> dict[str, Any]:
    """(d) Distances to held-out real clips, style by style at equal numbers of windows, and of all styles together."""
    made = [clip for clip in made if "real" not in clip.facts]
    held = [clip for clip in real if clip.split != "train" and "recorded" not in clip.facts]
    sets = {}
    for name, clips in (("generated", made), ("Griffin-Lim", griffin_lim), ("real", held)):
        sets[name] = defaultdict(list)
        for clip in clips:
            sets[name][clip.style] += pieces(clip, model, store, seconds)
    styles = [style for style in sorted(sets["generated"]) if sets["real"][style]]
    rows: dict[str, dict[str, float]] = {}
    for style in styles:
        target = torch.cat(sets["real"][style])
        candidates = {"generated": torch.cat(sets["generated"][style])}
        if sets["Griffin-Lim"][style]:
            candidates["Griffin-Lim"] = torch.cat(sets["Griffin-Lim"][style])
        others = torch.cat([torch.cat(sets["real"][other]) for other in styles if other != style])
        candidates["real, other styles"] = others
        size = min(len(rows_) for rows_ in candidates.values())  # the bias depends on N: all of the same N
        rows[style] = {name: frechet_distance(_spread(values, size), target) for name, values in candidates.items()}
    grouped = {}
    for name, per_style in sets.items():
        grouped[name] = GroupedMoments(model.dim)
        for style in styles:
            for index, features in enumerate(per_style[style]):
                grouped[name].add(f"{style} {index}", features)
    together = {name: _estimate(grouped["real"], grouped[name]) for name in ("generated", "Griffin-Lim")
                if sum(grouped[name].clips)}
    together["floor: real against real, halves"] = _estimate(grouped["real"].half(0), grouped["real"].half(1))
    means = {name: sum(row[name] for row in rows.values()) / len(rows)
             for name in ("generated", "Griffin-Lim", "real, other styles") if all(name in r for r in rows.values())}
    return {"embedder": model.name, "all styles": together, "mean over styles": means, "per style": rows}


def _spread(values: Tensor, size: int) -> Tensor:
    """`size` of the rows, evenly spread."""
    return values[torch.linspace(0, len(values) - 1, size).round().long()]


def _estimate(x: GroupedMoments, y: GroupedMoments) -> dict[str, Any]:
    estimate = estimate_frechet(x, y)
    return {"value": estimate.value, "interval 95": None if estimate.se is None else [estimate.low, estimate.high],
            "n": [estimate.n, estimate.m]}


def print_table(result: dict[str, Any]) -> None:
    """All that was measured, for reading."""
    if "style" in result:
        style = result["style"]
        columns = [name for name in style if isinstance(style[name], dict)]
        print(f"\nstyle heard by the probe ({style['probe']}), chance {style['chance']:.3f}")
        print(f"{'':<20}" + "".join(f"{name:>30}" for name in columns))
        for name in result["styles"]:
            cells = [style[column]["per style"].get(name) for column in columns]
            print(f"{name:<20}" + "".join(f"{'-' if cell is None else f'{cell[0]}/{cell[1]}':>30}" for cell in cells))
        print(f"{'all clips':<20}" + "".join(f"{style[column]['accuracy']:>30.3f}" for column in columns))
        for name, taken in style.get("generated", {}).get("taken for", {}).items():
            print(f"  {name} taken for " + ", ".join(f"{other} ({n})" for other, n in taken.items()))
    for name, shares in result.get("tempo and key", {}).items():
        print(f"\n{name}: " + "; ".join(f"{what} {row['share']:.3f} (n={row['n']})" for what, row in shares.items()
                                        if "share" in row))
    for name, row in result.get("notes", {}).items():
        print(f"\nnotes of the score found again, {name}: F1 {row['f1']:.3f} (n={row['n']})")
    for table in result.get("frechet", ()):
        print(f"\nFréchet distance to held-out real clips, {table['embedder']}")
        for name, row in table["all styles"].items():
            interval = "" if row["interval 95"] is None else "  {:.4g} - {:.4g}".format(*row["interval 95"])
            print(f"  all styles, {name:<34}{row['value']:>10.4g}{interval}  n={row['n']}")
        for name, value in table["mean over styles"].items():
            print(f"  mean over styles, {name:<28}{value:>10.4g}")


def machine() -> dict[str, str]:
    """What the figures were measured with."""
    import platform
    import subprocess

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                            cwd=Path(__file__).parent).stdout.strip()
    return {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "commit": commit}


if __name__ == "__main__":
    from audiogen.cli import recipe_main

    recipe_main(Prompts)
