"""How to train: what every recipe offers as --train.*, and the learning rate that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Literal

from audiogen.core.errors import UserError


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Processes, devices and sharding belong to `accelerate launch`."""

    run: Path = Path("runs/new")
    """Folder of this run: states, model, demos, logs. A run that is there is resumed."""
    steps: int = 10_000
    batch_size: int = 16
    """Samples a step over all processes and micro-batches."""
    accumulation: int = 1
    """Micro-batches a step and process."""
    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 200
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    final_rate: float = 0.05
    """Where the cosine ends, as a share of learning_rate."""
    clip: float = 1.0
    """Largest norm of the gradient, each player's own."""
    patience: int = 10
    """So many batches in a row without a finite loss and gradient are skipped; then the run goes back to the last saved
    state, once, and stops where that does not help."""
    ema: float = 0.999
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """None: what `accelerate config` says, float32 otherwise."""
    seed: int = 0
    workers: int = 0
    threads: int | None = None
    """torch's CPU threads; None leaves them alone."""
    log_every: int = 50
    demo_every: int = 2_000
    save_every: int = 500
    keep: int = 2
    """Training states to keep."""
    keep_every: int = 0
    """States of the steps that this divides are kept for good; 0: none."""
    minutes: float | None = None
    """Save and stop after this long; the schedule still aims at `steps`."""
    overfit: int = 0
    """Train on this many fixed batches only: 1 proves that the model can learn at all."""
    plan: bool = False
    """Measure a few steps, print parameters, memory and time to finish, and exit."""
    memory: str | None = None
    """With --plan: the memory that may be used, such as 6GiB; the plan then names the accumulation that fits."""
    stall: float = 600.0
    """Seconds without progress after which every process writes down where it stands, and the slowest is named; after
    twice as long the run ends, so that it can be started again. 0: never."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every", "demo_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")


def rate_at(step: int, config: TrainConfig) -> float:
    """Learning rate at a step, as a share of `learning_rate`."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    return config.final_rate + (1.0 - config.final_rate) * 0.5 * (1.0 + cos(pi * progress))
