"""Does every family learn one batch by heart? `--train.overfit 1` for each generator and composer, one after the other.

    python benchmarks/overfit.py --manifest manifest.jsonl --folder MIDI/ --json benchmarks/results/overfit.json

Each must bring its stated loss (`overfit_below`) below its stated value within --steps steps on one batch of real data;
what does not learn one batch learns nothing. A line each: the loss, its goal, and the steps it took.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from audiogen.core.errors import UserError  # noqa: E402  (runs outside an installed audiogen)
from audiogen.core.files import whole_file  # noqa: E402
from benchmarks.clip import machine  # noqa: E402

GENERATORS = ("diffusion_small", "diffusion_classifier", "enhancer", "autoencoder", "vae", "beta_vae", "infovae", "gan",
              "recurrent", "recurrent_gru", "seq2seq", "mel_codec", "wavenet")
COMPOSERS = ("lstm", "gru", "transformer", "music_transformer", "transformer_xl", "reformer", "chords_to_melody",
             "melody_to_accompaniment", "continuation")
REACHED = re.compile(r"reached (\S+) (\S+) < (\S+) after (\d+) steps")


@dataclass(frozen=True)
class Benchmark:
    """Overfit every family on one batch."""

    manifest: Path | None = None
    """For generators: written by `audiogen scan`."""
    folder: Path | None = None
    """For composers: MIDI files."""
    first: tuple[str, ...] = ()
    """FAMILY=RUN/model, for what stands on a first stage: latent_diffusion=..., token_transformer=..."""
    steps: int = 600
    families: tuple[str, ...] = ()
    """Only these (default: all)."""
    json: Path | None = None
    """Also write the figures here."""

    def run(self) -> int:
        stages = dict(each.split("=", 1) for each in self.first)
        rows = []
        for recipe, names in (("generator", (*GENERATORS, *stages)), ("composer", COMPOSERS)):
            data = self.manifest if recipe == "generator" else self.folder
            for name in names:
                if data is not None and (not self.families or name in self.families):
                    rows.append(self._row(recipe, name, data, stages.get(name)))
                    print(json.dumps(rows[-1]), flush=True)
        if not rows:
            raise UserError("name the data: --manifest for generators, --folder for composers")
        if self.json:
            with whole_file(self.json) as part:
                part.write_text(json.dumps({"steps": self.steps, "rows": rows} | machine(), indent=1) + "\n")
        return 0 if all(row["reached"] for row in rows) else 1

    def _row(self, recipe: str, name: str, data: Path, first: str | None) -> dict[str, Any]:
        words = [sys.executable, "-m", "audiogen", "train", recipe, "--preset", name, "--train.overfit", "1",
                 "--train.steps", str(self.steps), "--train.batch-size", "2", "--train.warmup", "20",
                 "--train.log-every", "20", "--train.threads", "1"]
        words += ["--data.manifest", str(data), "--data.frames", "64"] if recipe == "generator" else [
            "--data.folder", str(data), "--data.length", "96"]
        words += ["--first", first] if first else []
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as run:
            ended = subprocess.run([*words, "--train.run", run], capture_output=True, text=True,
                                   env=os.environ | {"OMP_NUM_THREADS": "1"})
        row = {"recipe": recipe, "name": name, "seconds": round(time.monotonic() - began)}
        found = REACHED.search(ended.stdout)
        if ended.returncode or found is None:
            return row | {"reached": False, "said": (ended.stdout + ended.stderr).strip().splitlines()[-1]}
        loss, value, goal, steps = found.groups()
        return row | {"reached": True, "loss": loss, "value": float(value), "goal": float(goal), "steps": int(steps)}


if __name__ == "__main__":
    import tyro

    try:
        sys.exit(tyro.cli(Benchmark, description=__doc__).run())
    except UserError as error:
        sys.exit(f"benchmarks/overfit.py: {error}")
