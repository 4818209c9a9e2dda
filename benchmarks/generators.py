"""Which generator, for how much training? Every family on the same data, prompts, scores and vocoder, in one table.

    python benchmarks/generators.py --runs runs/families --manifest manifest.jsonl --leave-out notes/ --minutes 10
    python benchmarks/generators.py --runs runs/families --real data/rendered --json benchmarks/results/generators.json

The first line trains what is not there yet (ROWS says how) on one core, one after the other: as many steps as fit into
--minutes, so that every family sees the end of its schedule; what stands on another (a first stage, a teacher) costs
that one's time besides. The second measures what --runs holds (RUN/model, a row each). --real is what
recipes/data_instruments.py writes. Every clip is made from the prompts of benchmarks/prompts.py, of the same seeds, in
the styles that all of the rows know, and heard through the same vocoder (families that make audio need none). Columns:

weights, cost     parameters (first stage included); steps and minutes of one core
× real time       seconds of clip for a second of work, vocoder included, all cores, batch 1, best of three
style             share of clips that a probe on YAMNet features takes for the style asked for; chance is 1 / styles
tempo, key        shares of clips in which librosa hears what was asked for (tempo: octaves allowed)
notes             F1 of a given score's notes found again in the clip
FAD, KAD          distance to held-out real clips (YAMNet; KAD × 100), with 95 % intervals; beside them one half of the
                  held-out real clips against the other
diversity         mean cosine distance between clips of one style, as a share of the held-out real clips'
memory            mean quantile of the distance to the nearest training clip among those of held-out clips (0.5: no
                  nearer than real ones; near 0: copies), and clips that hold a passage of a training clip (landmarks)

A few minutes say how fast a family learns, not how good it becomes.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from audiogen.core.audio import Audio  # noqa: E402  (runs outside an installed audiogen)
from audiogen.core.errors import UserError  # noqa: E402
from audiogen.core.files import whole_file, whole_folder  # noqa: E402
from audiogen.core.interfaces import Prompt  # noqa: E402
from audiogen.pipeline import Engine  # noqa: E402
from audiogen.signal.resample import resample  # noqa: E402
from benchmarks.clip import machine  # noqa: E402
from benchmarks.prompts import (  # noqa: E402
    Clip,
    Prompts,
    measure_notes,
    measure_styles,
    measure_tempo,
    pieces,
    read_made,
    read_real,
)
from benchmarks.short_training import Row, ShortTraining  # noqa: E402
from evaluation.cache import EmbeddingCache, default_cache  # noqa: E402
from evaluation.embedders.base import Embedder, load_embedder  # noqa: E402
from evaluation.estimate import Estimate  # noqa: E402
from evaluation.frechet import estimate_frechet  # noqa: E402
from evaluation.kernel_distance import estimate_kernel_distance  # noqa: E402
from evaluation.landmarks import SAMPLE_RATE, LandmarkIndex  # noqa: E402
from evaluation.moments import GroupedMoments  # noqa: E402
from evaluation.originality import copying, diversity, nearest_training_clips  # noqa: E402

ROWS: dict[str, Row] = {
    "vae": Row(),
    "beta_vae": Row(),
    "infovae": Row(),
    "diffusion": Row("diffusion_small"),
    "diffusion_4_steps": Row(after="--init diffusion", words=("--distill", "4"), share=0.5),
    "diffusion_2_steps": Row(after="--init diffusion_4_steps", words=("--distill", "2"), share=0.25),
    "latent_diffusion": Row(after="--first vae"),
    "gan": Row(words=("--train.learning-rate", "8e-4", "--model.discriminator-rate", "4e-4",
                      "--train.betas", "0.5", "0.99")),
    "recurrent": Row(),
    "seq2seq": Row(),
    "mel_codec": Row(words=("--train.learning-rate", "2e-3")),  # stands below token_transformer; makes nothing itself
    "token_transformer": Row(after="--first mel_codec"),
    "wavenet": Row(words=("--data.frames", "24", "--train.learning-rate", "1e-2", "--train.batch-size", "4")),
}


@dataclass(frozen=True)
class Benchmark:
    """Train and compare all generators."""

    runs: Path = Path("runs/families")
    """Folders RUN/model, one a row; clips are kept in RUN/clips."""
    real: Path | None = None
    """Real clips with .json sidecars; measure against them."""
    manifest: Path | None = None
    """Written by `audiogen scan`; needed for training only."""
    leave_out: tuple[str, ...] = ()
    """Files whose path begins so are not trained on."""
    minutes: float = 0.0
    """Of training, for every family that --runs lacks; 0: none."""
    families: tuple[str, ...] = ()
    """Only these rows (default: train all of ROWS, measure all that --runs holds)."""
    per_style: int = 4
    seconds: float = 4.0
    seed: int = 1000
    weights: Path | None = None
    """Folder of the embedders' weights (default: $AUDIOGEN_WEIGHTS)."""
    json: Path | None = None
    """Also write the figures here."""

    def run(self) -> int:
        if self.minutes:
            if self.manifest is None:
                raise UserError("--minutes trains: name the data by --manifest")
            data = ["--data.manifest", str(self.manifest)]
            data += ["--data.leave-out", *self.leave_out] if self.leave_out else []
            training = ShortTraining("generator", ROWS, self.runs, self.minutes, tuple(data))
            for name in self.families or tuple(ROWS):
                training.train(name)
        return self._measure() if self.real else 0

    def _measure(self) -> int:
        runs = [self.runs / name for name in self.families] if self.families else sorted(self.runs.iterdir())
        runs = [run for run in runs if (run / "model" / "config.json").is_file() or (run / "generator").is_dir()]
        engines = {run: Engine.from_pretrained(run if (run / "generator").is_dir() else run / "model")
                   for run in runs}
        engines = {run: engine for run, engine in engines.items() if _samples(engine)}
        if not engines:
            raise UserError(f"{self.runs} holds no RUN/model that samples: train some with --minutes and --manifest")
        styles = set.intersection(*(set(engine.styles) for engine in engines.values()))
        real = [clip for clip in read_real(self.real) if clip.style in styles]
        if not real:
            raise UserError(f"--real {self.real}: no style of it is known to all of {', '.join(r.name for r in runs)}")
        measure = _Measure(real, load_embedder("yamnet", weights=self.weights), self.seconds)
        rows = []
        for run, engine in engines.items():
            rows.append(self._row(run, engine, measure))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        result = {"clips a style": self.per_style, "seconds": self.seconds, "seed": self.seed,
                  "styles": len({clip.style for clip in real}), "floor": measure.floor(), "rows": rows} | machine()
        print_table(rows, result["floor"])
        if self.json:
            with whole_file(self.json) as part:
                part.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return 0

    def _row(self, run: Path, engine: Engine, measure: _Measure) -> dict[str, Any]:
        clips = run / "clips"
        if not clips.is_dir():
            prompts = Prompts(real=self.real, per_style=self.per_style, seconds=self.seconds, seed=self.seed)
            with whole_folder(clips) as part:
                prompts.fill(part, measure.real, engine)
        made = read_made(clips, sorted({clip.style for clip in measure.real}))
        return {
            "name": run.name, "family": engine.generator.name,
            "weights": sum(p.numel() for p in engine.generator.model.parameters()),
            "cost": {} if (run / "generator").is_dir() else cost(run), "real time": speed(engine), **measure(made),
        }


def _samples(engine: Engine) -> bool:
    """Whether the generator makes new sound from a prompt; codecs, plain autoencoders and enhancers do not."""
    return engine.generator.model.prompted


def cost(run: Path) -> dict[str, Any]:
    """Steps and minutes of a run, from its log; its first stage's beside them."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    step, minutes = 0, 0.0
    for line in lines:
        minutes += max(0, line["step"] - step) / line["steps_per_second"] / 60
        step = max(step, line["step"])
    found = {"steps": step, "minutes": round(minutes, 1)}
    recipe = json.loads((run / "recipe.json").read_text())
    for before in ("first", "init"):
        if recipe.get(before):
            found["after"] = cost(Path(recipe[before]).parent)
    return found


def speed(engine: Engine, *, seconds: float = 8.0) -> float:
    """Seconds of clip for a second of work."""
    times = []
    for seed in range(3):
        began = time.perf_counter()
        engine.generate(Prompt(text=engine.styles[0], seconds=seconds), seed=seed)
        times.append(time.perf_counter() - began)
    return round(seconds / min(times), 2)


class _Measure:
    """Everything that is heard in a set of clips; what concerns the real ones is made once."""

    def __init__(self, real: Sequence[Clip], model: Embedder, seconds: float) -> None:
        self.real, self.model, self.seconds = real, model, seconds
        self.store = EmbeddingCache(default_cache())
        self.phrases = [clip for clip in real if clip.split != "train" and "recorded" not in clip.facts]
        self.training = [clip for clip in real if clip.split == "train" and "recorded" not in clip.facts]
        self.held = self._features(self.phrases)
        self.index = LandmarkIndex((str(clip.path), _at_16k(clip)) for clip in self.training)

    def __call__(self, made: Sequence[Clip]) -> dict[str, Any]:
        free = [clip for clip in made if "real" not in clip.facts]  # those with a given score count for notes only
        features = self._features(free)
        style = measure_styles(self.real, made, [self.model], self.store, self.seconds)
        music = measure_tempo(free, self.seconds)
        notes = measure_notes(made, self.seconds)
        trained, held, new = (_means(rows) for rows in (self._features(self.training), self.held, features))
        quantile, z = copying(nearest_training_clips(trained, held, new))
        copies = sum(bool(self.index.find(_at_16k(clip))) for clip in free)
        return {
            "style": {"share": style["generated"]["accuracy"], "n": style["generated"]["n"], "chance": style["chance"],
                      "real": style["real, held out"]["accuracy"]},
            "tempo": music.get("tempo, octaves allowed"), "key": music.get("key"),
            "notes": {name: {"f1": row["f1"], "n": row["n"]} for name, row in notes.items()},
            "fad": self._fad(self.held, features), "kad": self._kad(self.held, features),
            "diversity": self._diversity(free, features) / self._diversity(self.phrases, self.held),
            "memory": {"quantile": quantile, "z": z, "passages": copies, "n": len(free)},
        }

    def floor(self) -> dict[str, Any]:
        """The distances between the halves of the held-out real clips."""
        halves = self.held[::2], self.held[1::2]
        return {"fad": self._fad(*halves), "kad": self._kad(*halves)}

    def _features(self, clips: Sequence[Clip]) -> list[list[Tensor]]:
        """For every clip its pieces' features, (windows, dim) each."""
        return [pieces(clip, self.model, self.store, self.seconds) for clip in clips]

    def _fad(self, reference: list[list[Tensor]], other: list[list[Tensor]]) -> dict[str, Any]:
        sides = []
        for features in (reference, other):
            moments = GroupedMoments(self.model.dim)
            for number, parts in enumerate(features):
                for index, part in enumerate(parts):
                    moments.add(f"{number} {index}", part)
            sides.append(moments)
        return _values(estimate_frechet(*sides))

    def _kad(self, reference: list[list[Tensor]], other: list[list[Tensor]]) -> dict[str, Any]:
        rows, names = [], []
        for features in (reference, other):
            rows.append(torch.cat([part for parts in features for part in parts]))
            names.append([str(number) for number, parts in enumerate(features) for part in parts for _ in part])
        return _values(estimate_kernel_distance(*rows, *names))

    def _diversity(self, clips: Sequence[Clip], features: list[list[Tensor]]) -> float:
        """Mean over styles of the mean distance between the first pieces of clips of a style."""
        by_style: dict[str, list[Tensor]] = defaultdict(list)
        for clip, parts in zip(clips, features, strict=True):
            by_style[clip.style].append(parts[0].mean(0))
        values = [diversity(torch.stack(rows))["mean_distance"] for rows in by_style.values() if len(rows) > 1]
        return sum(values) / len(values)


def _means(features: list[list[Tensor]]) -> Tensor:
    """One mean feature vector a piece, (pieces, dim)."""
    return torch.stack([part.mean(0) for parts in features for part in parts])


def _at_16k(clip: Clip) -> Tensor:
    audio = Audio.read(clip.path)
    return resample(audio.samples.mean(0), audio.sample_rate, SAMPLE_RATE)


def _values(estimate: Estimate) -> dict[str, Any]:
    interval = None if estimate.se is None else [estimate.low, estimate.high]
    return {"value": estimate.value, "interval 95": interval, "n": [estimate.n, estimate.m]}


def print_table(rows: Sequence[dict[str, Any]], floor: dict[str, Any]) -> None:
    """Markdown, the nearest to real sound first."""
    heads = ("generator", "weights", "cost", "× real time", "style", "tempo", "key", "notes F1", "FAD", "KAD",
             "diversity", "memory")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for row in sorted(rows, key=lambda row: row["fad"]["value"]):
        notes = row["notes"].get("generated")
        cells = [
            row["name"], f"{row['weights'] / 1e6:.1f} M", _cost(row["cost"]), f"{row['real time']:.3g}",
            f"{row['style']['share']:.2f}", *(f"{row[k]['share']:.2f}" if row[k] else "-" for k in ("tempo", "key")),
            f"{notes['f1']:.2f}" if notes else "-", *(_shown(row[k]) for k in ("fad", "kad")),
            f"{row['diversity']:.2f}", f"{row['memory']['quantile']:.2f}, {row['memory']['passages']} passages",
        ]
        print("| " + " | ".join(cells) + " |")
    first = rows[0]
    real = first["notes"].get("real")
    print(f"| real, held out |  |  |  | {first['style']['real']:.2f} |  |  | {real['f1']:.2f} | " if real else
          f"| real, held out |  |  |  | {first['style']['real']:.2f} |  |  | - | ", end="")
    print(f"{_shown(floor['fad'])} | {_shown(floor['kad'])} | 1 | 0.50 |")


def _cost(found: dict[str, Any]) -> str:
    if not found:
        return "see its card"
    text = f"{found['steps']} steps, {found['minutes']:.0f} min"
    return text + (f" after {_cost(found['after'])}" if "after" in found else "")


def _shown(value: dict[str, Any]) -> str:
    interval = value["interval 95"]
    return f"{value['value']:.3g}" + (f" ({interval[0]:.3g} to {interval[1]:.3g})" if interval else "")


if __name__ == "__main__":
    import tyro

    try:
        sys.exit(tyro.cli(Benchmark, description=__doc__).run())
    except UserError as error:
        sys.exit(f"benchmarks/generators.py: {error}")
