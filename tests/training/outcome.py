"""All that a finished run of survivors.py has left, so that two runs can be compared bit for bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from audiogen.training.state import newest_state

CLOCK = ("steps_per_second", "audio_per_second", "data_wait", "peak_mib")


def outcome(run: Path) -> dict[str, Any]:
    """The last state (weights, average, moments), the checkpoint, the log but for what depends on the clock."""
    newest = newest_state(run / "states")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {
        "state": newest.name,
        "unfinished": (run / "unfinished").exists(),
        "log": [{name: value for name, value in line.items() if name not in CLOCK} for line in lines],
        **{f"state {name}": digest for name, digest in _digests(newest / "state.safetensors").items()},
        **{f"model {name}": digest for name, digest in _digests(run / "model" / "model.safetensors").items()},
    }


def _digests(file: Path) -> dict[str, str]:
    return {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in load_file(file).items()}
