"""What a run tells while it goes on: averages, speed, waiting for data and memory, between two log lines."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiogen.training.config import TrainConfig, rate_at

STARVED = 0.25  # share of the time spent waiting for data from which on it is said


class Meter:
    """Adds up steps; every `log_every` of them becomes a line of log.jsonl and of the screen.

    What is added up between two lines is part of the training state, and lines that a resumed run makes again are taken
    out first: the losses in log.jsonl are those of a run that never stopped.
    """

    def __init__(self, config: TrainConfig, accelerator: Any, *, start: int, state: dict | None = None) -> None:
        self.config, self.accelerator = config, accelerator
        self.latest: dict[str, float] = {}
        self.speed, self.skipped = 0.0, 0
        self.file = config.run / "log.jsonl"
        self.last_step, self.last_time = start, time.monotonic()
        state = state or {}
        self.sums: dict[str, Any] = dict(state.get("sums", {}))
        self.counts: dict[str, int] = dict(state.get("counts", {}))
        self.latest = dict(state.get("latest", {}))
        self.skipped = state.get("skipped", 0)
        self.waited = self.audio_seconds = 0.0
        self.starved = False
        if accelerator.is_main_process:
            forget_lines_after(self.file, start)

    def state(self) -> dict[str, Any]:
        """What the next line needs of the steps before, the mean over the processes. Collective."""
        return {"sums": {name: self._mean(value) for name, value in self.sums.items()}, "counts": dict(self.counts),
                "latest": self.latest, "skipped": self.skipped}

    def _mean(self, value: Any) -> float:
        value = torch.as_tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return float(self.accelerator.reduce(value, "mean"))

    def add(self, step: int, losses: dict[str, Tensor], *, waited: float, audio_seconds: float) -> None:
        """One step; collective where a line is due."""
        for name, value in losses.items():
            # In float64, as the state keeps it: then a resumed run adds up the very same numbers.
            self.sums[name] = self.sums.get(name, 0.0) + value.double()
            self.counts[name] = self.counts.get(name, 0) + 1
        self.waited += waited
        self.audio_seconds += audio_seconds
        if (step + 1) % self.config.log_every == 0 or step + 1 == self.config.steps:
            self._tell(step + 1)

    def _tell(self, step: int) -> None:
        config, accelerator = self.config, self.accelerator
        now = time.monotonic()
        elapsed = max(now - self.last_time, 1e-9)
        device = accelerator.device
        means = {name: self._mean(value / self.counts[name]) for name, value in self.sums.items()}
        self.latest = {name: round(value, 5) for name, value in means.items()}
        self.speed = (step - self.last_step) / elapsed
        line = {
            "step": step,
            **self.latest,
            "learning_rate": rate_at(step - 1, config) * config.learning_rate,
            "steps_per_second": round(self.speed, 3),
            "audio_per_second": round(self.audio_seconds / elapsed, 2),
            "data_wait": round(self.waited / elapsed, 3),
            "peak_mib": peak_memory_mib(device),
        }
        if self.skipped:
            line["skipped"] = self.skipped
        if accelerator.is_main_process:
            with open(self.file, "a") as stream:
                stream.write(json.dumps(line) + "\n")
            left = (config.steps - step) / max(self.speed, 1e-9)
            shown = "  ".join(f"{name} {value:.4g}" for name, value in means.items())
            audio = f"{line['audio_per_second']:.1f} s audio/s  " if self.audio_seconds else ""
            print(
                f"step {step}/{config.steps}  {shown}  |  {self.speed:.2f} steps/s  {audio}"
                f"data wait {line['data_wait']:.0%}  {line['peak_mib']} MiB  {left / 60:.0f} min left",
                file=sys.stdout,
                flush=True,
            )
            accelerator.log({name: value for name, value in line.items() if name != "step"}, step=step)
            self._say_starved(line["data_wait"])
        self.last_step, self.last_time = step, time.monotonic()
        self.sums, self.counts, self.waited, self.audio_seconds = {}, {}, 0.0, 0.0

    def _say_starved(self, share: float) -> None:
        if share < STARVED or self.starved:
            return
        self.starved = True
        workers = self.config.workers
        print(
            f"the device waits for data {share:.0%} of the time: give the loader more --train.workers (now {workers}), "
            "keep decoded audio in memory (--data.cache), or pack the data once (audiogen pack)",
            flush=True,
        )


def forget_lines_after(file: Path, step: int) -> None:
    """Take the lines of later steps out of a log, and a last line that was only half written."""
    if not file.is_file():
        return
    kept = []
    text = file.read_text()
    for line in text.splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue
    if len("".join(kept)) < len(text):
        from audiogen.core.files import whole_file

        with whole_file(file) as part:
            part.write_text("".join(kept))


def forget_peak(device: torch.device) -> None:
    """Let `recent_peak_mib` begin anew, where the system can (CUDA, Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the "high water mark"


def recent_peak_mib(device: torch.device) -> float:
    """Peak memory since `forget_peak`; elsewhere than on CUDA and Linux, of the whole process."""
    status = Path("/proc/self/status")
    if device.type != "cuda" and status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return float(peak_memory_mib(device))


def peak_memory_mib(device: torch.device) -> int:
    """Peak memory of this process so far: on the GPU where it runs there, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> 20 if sys.platform == "darwin" else peak >> 10
