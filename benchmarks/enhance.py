"""How much of the damage does an enhancer mend? Held-out clips, spoiled and enhanced; --json PATH writes the table.

    python benchmarks/enhance.py --manifest manifest.jsonl [--checkpoint runs/enhancer/model] [--clips 64]

Distances to the clean recording in mean natural log units a mel value (0.35 is 3 dB) with 95 % intervals over clips:
of the spoiled one, of the enhanced mel, and of the sound that is heard (the enhanced mel vocoded, and its mel taken).
Clips are 2 s of the split that was not trained on, each style as often; padding does not count. The last row is a
recording that was good, which should stay what it is.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from audiogen.cli.enhance import SHIPPED  # noqa: E402  (runs outside an installed audiogen)
from audiogen.core.errors import UserError  # noqa: E402
from audiogen.core.files import whole_file  # noqa: E402
from audiogen.core.rng import SampleRng  # noqa: E402
from audiogen.data.segments import SegmentDataset, collate  # noqa: E402
from audiogen.generators.mel_model import frame_mask  # noqa: E402
from audiogen.pipeline import Engine  # noqa: E402
from audiogen.signal.degrade import add_noise, coloured_noise, low_pass  # noqa: E402
from audiogen.signal.mel import MelSpectrogram  # noqa: E402
from benchmarks.clip import machine  # noqa: E402

# name -> (signal to noise in dB, exponent of the noise's colour), cutoff in Hz
DAMAGES: dict[str, tuple[tuple[float, float] | None, float | None]] = {
    "white noise, 0 dB": ((0.0, 0.0), None),
    "white noise, 10 dB": ((10.0, 0.0), None),
    "white noise, 20 dB": ((20.0, 0.0), None),
    "pink noise, 10 dB": ((10.0, 1.0), None),
    "below 4 kHz": (None, 4000.0),
    "below 2 kHz": (None, 2000.0),
    "pink noise, 10 dB, below 4 kHz": ((10.0, 1.0), 4000.0),
    "nothing": (None, None),
}


@dataclass(frozen=True)
class Benchmark:
    """Measure an enhancer."""

    manifest: Path
    """Written by `audiogen scan`."""
    checkpoint: Path = SHIPPED
    """Of the family enhancer."""
    clips: int = 64
    split: str = "test"
    frames: int = 172
    json: Path | None = None
    """Also write the figures here."""

    @torch.inference_mode()
    def run(self) -> int:
        engine = Engine.from_pretrained(self.checkpoint)
        if not hasattr(engine.generator.model, "enhance"):
            raise UserError(f"--checkpoint {self.checkpoint} holds a {engine.generator.name}, and no enhancer")
        dataset = SegmentDataset(self.manifest, engine.mel, frames=self.frames, split=self.split, weights="styles")
        batches = [collate([dataset[k] for k in range(first, min(first + 16, self.clips))])
                   for first in range(0, self.clips, 16)]
        rows = {name: self._row(engine, batches, *damage) for name, damage in DAMAGES.items()}
        print("| damage | spoiled | enhanced | heard |\n|---|---|---|---|")
        for name, row in rows.items():
            print(f"| {name} | " + " | ".join(f"{value:.2f} ± {half:.2f}" for value, half in row.values()) + " |")
        if self.json:
            with whole_file(self.json) as part:
                part.write_text(json.dumps({"clips": self.clips, "split": self.split, "rows": rows} | machine(),
                                           indent=1) + "\n", encoding="utf-8")
        return 0

    def _row(
        self, engine: Engine, batches: list, noise: tuple[float, float] | None, cutoff: float | None
    ) -> dict[str, Any]:
        front_end, rate = MelSpectrogram(engine.mel), engine.mel.sample_rate
        found: dict[str, list[Tensor]] = {"spoiled": [], "enhanced": [], "heard": []}
        for batch in batches:
            audio, rng = batch.audio, SampleRng(0, ids=batch.ids.tolist(), stream="benchmark")
            clean = front_end(audio)[..., : self.frames]
            count = len(audio)
            if noise is not None:
                snr, exponent = (torch.full((count,), value) for value in noise)
                audio = add_noise(audio, coloured_noise(rng.fork("noise"), audio.shape[-1], exponent), snr)
            if cutoff is not None:
                audio = low_pass(audio, torch.full((count,), cutoff), rate)
            spoiled = front_end(audio)[..., : self.frames]
            enhanced = engine.generator.model.enhance(spoiled, rng=rng.fork("mel"))
            heard = front_end(engine.render(enhanced))[..., : self.frames]
            mask = frame_mask(batch.lengths, clean)
            for name, mel in (("spoiled", spoiled), ("enhanced", enhanced), ("heard", heard)):
                error = ((mel - clean).abs() * mask).mean(dim=1).sum(dim=1) / mask.sum(dim=(1, 2))
                found[name].append(error)
        values = {name: torch.cat(parts) for name, parts in found.items()}
        return {name: (float(value.mean()), float(1.96 * value.std() / len(value) ** 0.5))
                for name, value in values.items()}


if __name__ == "__main__":
    import tyro

    try:
        sys.exit(tyro.cli(Benchmark, description=__doc__).run())
    except UserError as error:
        sys.exit(f"benchmarks/enhance.py: {error}")
