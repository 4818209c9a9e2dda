"""How long does a person wait for a clip? A cold process, from the command to the file, and what it takes in memory.

    python benchmarks/clip.py --json benchmarks/results/clip.json

"whole process" is the wall time of `audiogen generate` (imports, loading, composing, sampling, vocoding, writing);
"generation" is what the command itself reports: from the prompt to the samples, with everything loaded.
"""

from __future__ import annotations

import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PROMPTS = ("slow felt piano, melancholic", "lively banjo in G major", "rain on a window")


@dataclass(frozen=True)
class Clip:
    """Time and memory of cold `audiogen generate` processes."""

    seconds: float = 8.0
    repeats: int = 3
    checkpoint: Path | None = None
    json: Path | None = None
    """Also write the figures here."""

    def run(self) -> int:
        rows = []
        for prompt in PROMPTS:
            walls, speeds = [], []
            for seed in range(self.repeats):
                with tempfile.TemporaryDirectory() as folder:
                    command = [
                        sys.executable,
                        "-m",
                        "audiogen",
                        "generate",
                        prompt,
                        "--seconds",
                        str(self.seconds),
                        "--seed",
                        str(seed),
                        "-o",
                        str(Path(folder) / "clip.wav"),
                    ]
                    if self.checkpoint:
                        command += ["--checkpoint", str(self.checkpoint)]
                    began = time.monotonic()
                    done = subprocess.run(command, capture_output=True, text=True)
                    walls.append(time.monotonic() - began)
                if done.returncode:
                    print(done.stderr, file=sys.stderr)
                    return done.returncode
                speeds.append(float(re.search(r"([\d.]+)\s*x real time", done.stdout + done.stderr)[1]))
            rows.append(
                {
                    "prompt": prompt,
                    "whole process, s": round(statistics.median(walls), 2),
                    "generation, x real time": round(statistics.median(speeds), 2),
                }
            )
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # KiB on Linux, of the largest child
        result = {
            "seconds": self.seconds,
            "repeats": self.repeats,
            "clips": rows,
            "peak memory, MiB": peak >> 10,
        } | machine()
        print(f"{'prompt':<32} {'whole process':>14} {'generation':>12}")
        for row in rows:
            print(f"{row['prompt']:<32} {row['whole process, s']:>12.2f} s {row['generation, x real time']:>10.1f} x")
        print(
            f"peak memory {result['peak memory, MiB']} MiB; "
            f"{result['machine']}, {result['cores']} cores, {result['commit']}"
        )
        if self.json:
            self.json.parent.mkdir(parents=True, exist_ok=True)
            self.json.write_text(json.dumps(result, indent=1) + "\n")
        return 0


def machine() -> dict:
    """Where a figure was measured: processor, cores, torch, commit."""
    import os
    import platform

    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), model
        )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    return {
        "machine": model,
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "commit": commit or "none",
    }


if __name__ == "__main__":
    import tyro

    sys.exit(tyro.cli(Clip).run())
