"""How fast is a file measured (decoding, content hash, BS.1770 loudness, fingerprint), and a folder scanned?

    python benchmarks/scan.py [--minutes 10] [--json benchmarks/results/scan.json]

Ten minutes of synthetic stereo at 44.1 kHz are written in each format, in files of a minute. "one core" is one process
that measures them: seconds of sound per second of its processor time, and of wall time (the same on an idle machine).
"whole scan" is `audiogen.data.scan.scan` with a process a core, start of the processes and comparison included.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RATE = 44100
FORMATS = {"flac": {}, "wav": {}, "ogg": {}, "mp3": {}, "opus": {"format": "OGG", "subtype": "OPUS"}}


@dataclass(frozen=True)
class ScanSpeed:
    """Speed of a scan, in seconds of sound per second."""

    minutes: int = 10
    """Of sound in FLAC; the other formats get a fifth of it."""
    json: Path | None = None
    """Also write the figures here."""

    def run(self) -> int:
        from audiogen.core.parallel import cores
        from audiogen.data.measure import measure
        from audiogen.data.scan import scan

        if self.minutes < 1:
            raise SystemExit("--minutes must be at least 1")
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            for name, options in FORMATS.items():
                count = self.minutes if name == "flac" else max(1, self.minutes // 5)
                files = [write(Path(folder) / name / f"{index}.{name}", index, **options) for index in range(count)]
                measure(files[0])  # imports, filter coefficients
                wall, processor = time.perf_counter(), time.process_time()
                seconds = sum(measure(file).seconds for file in files)
                rows.append({
                    "what": f"{name}, one core", "minutes": count,
                    "x real time of processor": round(seconds / (time.process_time() - processor)),
                    "x real time": round(seconds / (time.perf_counter() - wall)),
                })
            result = scan(Path(folder) / "flac", workers=cores())
            rows.append({"what": f"whole scan, {result.workers} processes", "minutes": self.minutes,
                         "x real time of processor": None, "x real time": round(result.speed)})
        print(f"{'':<28} {'minutes':>8} {'x real time of processor':>26} {'x real time':>12}")
        for row in rows:
            processor = row["x real time of processor"] or ""
            print(f"{row['what']:<28} {row['minutes']:>8} {processor:>26} {row['x real time']:>12}")
        figures = {"rows": rows} | machine()
        print(f"{figures['machine']}, {figures['cores']} cores, load {figures['load']}, {figures['commit']}")
        if self.json:
            self.json.parent.mkdir(parents=True, exist_ok=True)
            self.json.write_text(json.dumps(figures, indent=1) + "\n")
        return 0


def write(path: Path, seed: int, **options) -> Path:
    """A minute of slow chords over noise whose level moves, as hard for FLAC as quiet music is."""
    import soundfile
    from scipy.signal import lfilter

    rng = np.random.default_rng(seed)
    seconds = np.arange(60 * RATE) / RATE
    noise = lfilter([0.02], [1, -0.98], rng.standard_normal((2, len(seconds))), axis=1)
    chord = sum(np.sin(2 * np.pi * pitch * seconds + 3 * np.sin(0.5 * seconds)) for pitch in rng.uniform(80, 2000, 5))
    sound = 0.04 * chord * np.stack([np.sin(seconds / 3), np.cos(seconds / 4)]) + 0.5 * noise
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", 48000 if path.suffix == ".opus" else RATE, 2, **options) as file:
        for start in range(0, sound.shape[1], RATE):  # libvorbis puts what it is given at once on its stack
            file.write(sound[:, start : start + RATE].T)
    return path


def machine() -> dict:
    """What the figures were measured on."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    git = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    return {"machine": model, "cores": os.cpu_count(), "load": load, "commit": git.stdout.strip()}


if __name__ == "__main__":
    import sys

    import tyro

    sys.exit(tyro.cli(ScanSpeed, description=__doc__).run())
