"""Which vocoder, for how much training? Every family on the same data for the same minutes, in one table.

    python benchmarks/vocoders.py --manifest manifest.jsonl --runs runs/table --minutes 4
    python benchmarks/vocoders.py --manifest manifest.jsonl --runs runs/table --minutes 0    (scores what is there)

Each family trains in its small form (`audiogen train vocoder --preset FAMILY`) on one core, one after the other, for
`--minutes` on the manifest's train split, then renders clips of the test split again from their mels. Columns: weights,
times real time with 1 and 2 threads (batch 1, best of three), multi-resolution STFT and log-mel distance to the
originals, Fréchet distance of the copies to them (log-mel statistics, and YAMNet where AUDIOGEN_WEIGHTS has it).
Griffin-Lim needs no training. A few minutes say how fast a family learns, not how good it becomes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from audiogen.core.checkpoint import load_checkpoint  # noqa: E402  (runs outside an installed audiogen)
from audiogen.core.errors import UserError  # noqa: E402
from audiogen.core.mel_format import MelFormat  # noqa: E402
from audiogen.core.rng import SampleRng  # noqa: E402
from audiogen.data.manifest import read_manifest  # noqa: E402
from audiogen.data.segments import read_segment  # noqa: E402
from audiogen.signal.mel import MelSpectrogram  # noqa: E402
from audiogen.signal.resample import resample  # noqa: E402
from benchmarks.clip import machine  # noqa: E402
from evaluation.embedders.base import load_embedder  # noqa: E402
from evaluation.frechet import frechet_distance  # noqa: E402
from evaluation.vocoder_scores import mel_l1, mr_stft  # noqa: E402
from vocoders.griffin_lim import GriffinLim, GriffinLimConfig  # noqa: E402

# What a few minutes on one core need besides the presets: smaller batches, and no stage that would take them all.
EXTRA = {
    "parallel_wavegan": ("--losses.magnitude-steps", "600", "--train.batch-size", "6"),
    "hifigan": ("--train.batch-size", "4"), "melgan": ("--train.batch-size", "4"), "vocos": (),
    "diffwave": ("--train.batch-size", "4",), "wavenet": ("--train.batch-size", "4",),
}


@dataclass(frozen=True)
class Benchmark:
    """Train and compare all vocoders."""

    manifest: Path
    runs: Path = Path("runs/vocoders")
    minutes: float = 4.0
    """Of training, for each family; 0: score what --runs holds."""
    families: tuple[str, ...] = ("parallel_wavegan", "hifigan", "vocos", "melgan", "diffwave", "wavenet")
    clips: int = 24
    seconds: float = 3.0
    json: Path | None = None

    def run(self) -> int:
        for family in self.families if self.minutes else ():
            self._train(family)
        torch.set_num_threads(1)
        clips = list(self._clips(MelFormat()))
        embedders = [load_embedder("melstats")]
        if os.environ.get("AUDIOGEN_WEIGHTS"):
            embedders.append(load_embedder("yamnet"))
        rows = [self._row("griffin_lim", GriffinLim(GriffinLimConfig(iterations=64)), clips, embedders, {})]
        for family in self.families:
            folder = self.runs / family / "model"
            if not folder.is_dir():
                print(f"{family}: nothing in {folder}", file=sys.stderr)
                continue
            model = load_checkpoint(folder, room="vocoder").model
            scores = json.loads((folder / "scores.json").read_text())
            rows.append(self._row(family, model, clips, embedders, scores))
        result = {"minutes": self.minutes, "clips": len(clips), "seconds": self.seconds, "rows": rows} | machine()
        self._print(rows)
        if self.json is not None:
            self.json.parent.mkdir(parents=True, exist_ok=True)
            self.json.write_text(json.dumps(result, indent=1) + "\n")
        return 0

    def _train(self, family: str) -> None:
        words = [sys.executable, "-m", "audiogen", "train", "vocoder", "--preset", family,
                 "--data.manifests", str(self.manifest), "--train.run", str(self.runs / family),
                 "--train.minutes", str(self.minutes), "--train.threads", "1", "--train.schedule", "constant",
                 "--train.demo-every", "1000000", "--scored", "0", *EXTRA.get(family, ())]
        print(" ".join(words[3:]), flush=True)
        log = self.runs / f"{family}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w") as file:
            ended = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT,
                                   env=os.environ | {"OMP_NUM_THREADS": "1"})
        if ended.returncode:
            raise UserError(f"training {family} ended with {ended.returncode}: see {log}")

    def _clips(self, format: MelFormat) -> list[Tensor]:
        """(1, 1, time) each, at a peak of -3 dBFS, spread evenly over the test split."""
        manifest = read_manifest(self.manifest)
        entries = [e for e in manifest.select(split="test", duplicates=False)
                   if e.sample_rate >= format.sample_rate and e.seconds >= self.seconds]
        stride = max(1.0, len(entries) / self.clips)
        time = round(self.seconds * format.frame_rate) * format.hop_length
        clips = []
        for index in range(min(self.clips, len(entries))):
            entry = entries[int(index * stride)]
            samples = torch.from_numpy(read_segment(manifest.audio(entry), 0, time, format.sample_rate))
            if len(samples) == time and float(samples.abs().max()) > 1e-3:
                clips.append((samples * (10 ** (-3 / 20) / samples.abs().max()))[None, None])
        if not clips:
            raise UserError(f"{self.manifest} has no clip of {self.seconds} s in its test split")
        return clips

    @torch.inference_mode()
    def _row(self, name: str, model: Any, clips: list[Tensor], embedders: list[Any], scores: dict) -> dict[str, Any]:
        format = model.config.mel
        front_end = MelSpectrogram(format)
        model.eval()
        copies, distances = [], []
        for index, clip in enumerate(clips):
            copy = model(front_end(clip)[..., : clip.shape[2] // format.hop_length], rng=SampleRng(0, ids=[index]))
            copies.append(copy[..., : clip.shape[2]].clamp(-1, 1))
            distances.append((mr_stft(clip[0, 0], copies[-1][0, 0]),
                              mel_l1(clip[0, 0], copies[-1][0, 0], format.sample_rate)))
        count = len(distances)
        stft, mel = (torch.tensor(values, dtype=torch.float64) for values in zip(*distances, strict=True))
        row = {
            "name": name, "weights": sum(p.numel() for p in model.parameters()), "steps": scores.get("step"),
            "mr_stft": float(stft.mean()), "mr_stft_interval": 1.96 * float(stft.std()) / count**0.5,
            "mel_l1": float(mel.mean()), "mel_l1_interval": 1.96 * float(mel.std()) / count**0.5,
        }
        for embedder in embedders:
            sides = [torch.cat([embedder(resample(clip[0], format.sample_rate, embedder.sample_rate))[0]
                                for clip in side]) for side in (clips, copies)]
            row[f"frechet_{embedder.name}"] = frechet_distance(*sides)
        mel = front_end(clips[0])
        for threads in (1, 2):
            torch.set_num_threads(threads)
            times = []
            for _ in range(3):
                began = time.perf_counter()
                model(mel, rng=SampleRng(0))
                times.append(time.perf_counter() - began)
            row[f"real_time_{threads}"] = clips[0].shape[2] / format.sample_rate / min(times)
        torch.set_num_threads(1)
        print(json.dumps(row), file=sys.stderr, flush=True)
        return row

    def _print(self, rows: list[dict[str, Any]]) -> None:
        yamnet = any("frechet_yamnet" in row for row in rows)
        print("| vocoder | weights | steps | × real time, 1 thread | 2 threads | MR-STFT | mel L1 | Fréchet, log-mel |"
              + (" Fréchet, YAMNet |" if yamnet else ""))
        print("|---|---|---|---|---|---|---|---|" + ("---|" if yamnet else ""))
        for row in sorted(rows, key=lambda row: row["mr_stft"]):
            cells = [row["name"], f"{row['weights'] / 1e6:.2f} M" if row["weights"] else "-", row["steps"] or "-",
                     f"{row['real_time_1']:.3g}", f"{row['real_time_2']:.3g}",
                     f"{row['mr_stft']:.3f} ± {row['mr_stft_interval']:.3f}",
                     f"{row['mel_l1']:.3f} ± {row['mel_l1_interval']:.3f}", f"{row['frechet_melstats']:.3g}"]
            cells += [f"{row['frechet_yamnet']:.3g}"] if yamnet else []
            print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    import tyro

    try:
        sys.exit(tyro.cli(Benchmark, description=__doc__).run())
    except UserError as error:
        sys.exit(f"benchmarks/vocoders.py: {error}")
