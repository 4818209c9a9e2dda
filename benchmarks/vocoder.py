"""How near does copy synthesis come? Our vocoder against Griffin-Lim with 64 iterations, from the same mels.

    python benchmarks/vocoder.py --manifest manifest.jsonl [--manifest other.jsonl] [--split test] [--json scores.json]
    python benchmarks/vocoder.py --folder SOUNDS/ --checkpoint runs/mine/model

Every clip is at most `--seconds` long, brought to a peak of -3 dBFS, turned into a mel and back. Columns: mean distance
of the log-mels (natural log) and auraloss's multi-resolution STFT loss, both against the original, lower is better; and
how many times faster than real time one clip is rendered with 1 and with 2 threads. Griffin-Lim is given its best: the
non-negative least-squares inverse of the filter bank and the fast variant (momentum 0.99).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from audiogen.core.checkpoint import checkpoint_hash, load_checkpoint  # noqa: E402  (runs outside an installed audiogen)
from audiogen.core.errors import UserError  # noqa: E402
from audiogen.core.mel_format import MelFormat  # noqa: E402
from audiogen.core.rng import SampleRng  # noqa: E402
from audiogen.data.manifest import read_manifest  # noqa: E402
from audiogen.data.segments import read_segment  # noqa: E402
from audiogen.signal.mel import MelSpectrogram  # noqa: E402
from vocoders.griffin_lim import GriffinLim, GriffinLimConfig  # noqa: E402

SHIPPED = Path(__file__).resolve().parents[1] / "audiogen" / "pretrained" / "default" / "vocoder"
AUDIO = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif"}


@dataclass(frozen=True)
class Benchmark:
    """Copy synthesis by a vocoder and by Griffin-Lim."""

    manifest: tuple[Path, ...] = ()
    folder: Path | None = None
    checkpoint: Path = SHIPPED
    split: str = "test"
    clips: int = 100  # at most so many of each manifest, evenly spread over it
    seconds: float = 4.0
    iterations: int = 64  # of Griffin-Lim
    inverse: str = "nnls"  # Griffin-Lim's inverse of the filter bank: "nnls" or "pinv"
    open_only: bool = True  # leave out files whose licence tag is not open: they are not in the training set's splits
    json: Path | None = None

    def run(self) -> int:
        from auraloss.freq import MultiResolutionSTFTLoss

        torch.set_num_threads(1)
        checkpoint = load_checkpoint(self.checkpoint, room="vocoder")
        format = checkpoint.mel
        griffin_lim = GriffinLim(GriffinLimConfig(mel=format, iterations=self.iterations, inverse=self.inverse))
        models = {"ours": checkpoint.model, f"Griffin-Lim {self.iterations}": griffin_lim}
        front_end, stft = MelSpectrogram(format), MultiResolutionSTFTLoss()
        rows: list[dict[str, Any]] = []
        with torch.inference_mode():
            for index, (group, name, audio) in enumerate(self._clips(format)):
                mel = front_end(audio)
                row: dict[str, Any] = {"group": group, "file": name, "seconds": audio.shape[2] / format.sample_rate}
                for label, model in models.items():
                    copy = model(mel, rng=SampleRng(0, ids=[index]))
                    row[label] = {
                        "log_mel_l1": float((front_end(copy) - mel).abs().mean()),
                        "mr_stft": float(stft(copy, audio)),
                    }
                rows.append(row)
        if not rows:
            raise UserError("no clip to measure: name a --manifest with files of the split, or a --folder")
        result = {
            "checkpoint": checkpoint_hash(self.checkpoint), "n": len(rows), "split": self.split,
            "groups": {group: _means([row for row in rows if row["group"] == group], models)
                       for group in dict.fromkeys(row["group"] for row in rows)},
            "all": _means(rows, models), "times_real_time": _speeds(models, format), "rows": rows,
        }
        _print(result, models)
        if self.json is not None:
            from audiogen.core.files import whole_file

            with whole_file(self.json) as part:
                part.write_text(json.dumps(result, indent=1) + "\n")
        return 0

    def _clips(self, format: MelFormat) -> Iterator[tuple[str, str, Tensor]]:
        """(group, file, audio (1, 1, time)) of every clip that is long enough and not silent."""
        from audiogen.data.notes import is_open

        found: list[tuple[str, Path, float, int]] = []
        for path in self.manifest:
            manifest = read_manifest(path)
            entries = [
                entry for entry in manifest.select(split=self.split, duplicates=False)
                if entry.sample_rate >= format.sample_rate and entry.seconds >= 0.75
                and (not self.open_only or is_open(str(entry.tags.get("licence", "CC0"))))
            ]
            stride = max(1.0, len(entries) / self.clips)
            chosen = [entries[int(i * stride)] for i in range(min(self.clips, len(entries)))]
            found += [(path.stem, manifest.audio(entry), entry.seconds, entry.sample_rate) for entry in chosen]
        if self.folder is not None:
            files = sorted(path for path in self.folder.rglob("*") if path.suffix.lower() in AUDIO)
            found += [(self.folder.name, path, self.seconds, format.sample_rate) for path in files[: self.clips]]
        for group, path, seconds, _ in found:
            length = round(min(self.seconds, seconds) * format.sample_rate)
            samples = torch.from_numpy(read_segment(path, 0, length, format.sample_rate))
            samples = samples[: len(samples) // format.hop_length * format.hop_length]
            if len(samples) > 2048 and float(samples.abs().max()) > 1e-4:
                yield group, path.name, (samples * (10 ** (-3 / 20) / samples.abs().max()))[None, None]


def _means(rows: list[dict[str, Any]], models: dict[str, Any]) -> dict[str, Any]:
    """Mean over the clips, with the half-width of its 95 % interval, and how far ours lies below the other."""
    result: dict[str, Any] = {"n": len(rows)}
    labels = list(models)
    for measure in ("log_mel_l1", "mr_stft"):
        for label in labels:
            values = torch.tensor([row[label][measure] for row in rows], dtype=torch.float64)
            spread = float(values.std()) / len(rows) ** 0.5 if len(rows) > 1 else float("nan")
            result[f"{label}: {measure}"] = {"mean": float(values.mean()), "interval": 1.96 * spread}
        ours, other = (result[f"{label}: {measure}"]["mean"] for label in labels)
        result[f"{measure} below"] = 1.0 - ours / other
    return result


def _speeds(models: dict[str, Any], format: MelFormat, seconds: float = 8.0) -> dict[str, dict[str, float]]:
    """The best of five runs on one clip, for 1 and 2 threads."""
    frames = round(seconds * format.frame_rate)
    audio = 0.3 * torch.randn(1, frames * format.hop_length, generator=torch.Generator().manual_seed(0))
    mel = MelSpectrogram(format)(audio)[..., :frames]
    speeds: dict[str, dict[str, float]] = {}
    for label, model in models.items():
        speeds[label] = {}
        for threads in (1, 2):
            torch.set_num_threads(threads)
            times = []
            with torch.inference_mode():
                for _ in range(5):
                    started = time.perf_counter()
                    model(mel)
                    times.append(time.perf_counter() - started)
            speeds[label][f"{threads} threads"] = seconds / min(times)
        torch.set_num_threads(1)
    return speeds


def _print(result: dict[str, Any], models: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    labels = list(models)
    table = Table(title=f"copy synthesis, split {result['split']}, checkpoint {result['checkpoint']}")
    table.add_column("clips")
    table.add_column("n", justify="right")
    for measure in ("log-mel L1", "MR-STFT"):
        for label in labels:
            table.add_column(f"{measure}\n{label}", justify="right")
        table.add_column("below", justify="right")
    for group, means in [*result["groups"].items(), ("all", result["all"])]:
        cells = [group, str(means["n"])]
        for measure in ("log_mel_l1", "mr_stft"):
            cells += [f"{means[f'{label}: {measure}']['mean']:.4f}" for label in labels]
            cells.append(f"{means[f'{measure} below']:.0%}")
        table.add_row(*cells)
    Console(width=120).print(table)
    for label, speeds in result["times_real_time"].items():
        print(f"{label}: " + ", ".join(f"{value:.1f} x real time with {name}" for name, value in speeds.items()))


if __name__ == "__main__":
    import tyro

    try:
        sys.exit(tyro.cli(Benchmark, description=__doc__).run())
    except UserError as error:
        sys.exit(f"benchmarks/vocoder.py: {error}")
