"""The one training loop: players take turns, through Accelerate; every model of the engine is trained here.

A step s works on the samples s * batch_size ... (s + 1) * batch_size - 1, cut into micro-batches and dealt to the
processes. Samples and noise depend on (seed, step, sample id) only, so the loss curve is the same on one process as on
eight, and a resumed run is the run that never stopped.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import cos, pi
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from audiogen.core.checkpoint import save_checkpoint
from audiogen.core.config import to_dict
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Player, Task
from audiogen.core.rng import SampleRng
from audiogen.training.ema import averaged
from audiogen.training.guard import Guard
from audiogen.training.state import forget_old_states, load_state_folder, newest_state, save_state


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
    minutes: float | None = None
    """Save and stop after this long; the schedule still aims at `steps`."""
    overfit: int = 0
    """Train on this many fixed batches only: 1 proves that the model can learn at all."""
    plan: bool = False
    """Measure a few steps, print parameters, memory and time to finish, and exit."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every", "demo_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")


class StepSampler(Sampler[list[int]]):
    """Global sample numbers of this process's micro-batches, from `start` on, for ever."""

    def __init__(self, config: TrainConfig, *, start: int, rank: int, world: int) -> None:
        share = config.accumulation * world
        if config.batch_size % share:
            raise UserError(
                f"batch_size={config.batch_size} is not divisible by accumulation x processes = "
                f"{config.accumulation} x {world}: choose a multiple of {share}"
            )
        self.config, self.start, self.rank, self.world = config, start, rank, world
        self.micro = config.batch_size // share

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.config.steps):
            base = (step % self.config.overfit if self.config.overfit else step) * self.config.batch_size
            for turn in range(self.config.accumulation):
                first = base + (turn * self.world + self.rank) * self.micro
                yield list(range(first, first + self.micro))

    def __len__(self) -> int:
        return (self.config.steps - self.start) * self.config.accumulation


class _Turn(nn.Module):
    """A player's loss as a forward pass, so that DDP and autocast see it."""

    def __init__(self, player: Player) -> None:
        super().__init__()
        self.module = player.module
        self._loss = player.loss

    def forward(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        return self._loss(batch, rng)


@dataclass
class Summary:
    """What a call of `fit` did. `interrupted` names the signal, where one ended it."""

    step: int
    losses: dict[str, float] = field(default_factory=dict)
    interrupted: str = ""
    plan: dict[str, Any] = field(default_factory=dict)


def rate_at(step: int, config: TrainConfig) -> float:
    """Learning rate at a step, as a share of `learning_rate`."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    return config.final_rate + (1.0 - config.final_rate) * 0.5 * (1.0 + cos(pi * progress))


def fit(
    task: Task,
    dataset: Dataset,
    config: TrainConfig,
    *,
    collate: Any,
    recipe: Any = None,
    labels: dict | None = None,
    card: str = "",
    overfit_below: tuple[str, float] | None = None,
    judge: Callable[[Path], float] | None = None,
) -> Summary:
    """Train `task` on `dataset` (indexed by the global sample number) until `config.steps`.

    `recipe`: the resolved recipe, written beside the weights. `overfit_below`: (name of a logged loss, the value that
    --overfit must reach); None: "loss", and a third less than at first. `judge`: folder of demo clips -> how far
    they are from what they should be; then scores.jsonl lists every demo's score and best/ holds the best one's
    weights.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.overfit or config.plan:
        return _Run(task, dataset, config, collate, recipe, labels or {}, card, overfit_below, None).short()
    return _Run(task, dataset, config, collate, recipe, labels or {}, card, None, judge).train()


class _Run:
    def __init__(self, task, dataset, config, collate, recipe, labels, card, overfit_below, judge) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import ProjectConfiguration

        self.task, self.dataset, self.config, self.collate = task, dataset, config, collate
        self.recipe, self.labels, self.card, self.overfit_below = recipe, labels, card, overfit_below
        self.judge = judge
        quiet = config.plan
        precision = {"fp32": "no", None: None}.get(config.precision, config.precision)
        if precision == "fp16" and not torch.cuda.is_available():
            raise UserError("precision fp16 needs a GPU; on a CPU choose bf16 or fp32")
        AcceleratorState._reset_state()  # a second run in one process may have another precision
        self.accelerator = Accelerator(
            mixed_precision=precision,
            log_with=None if quiet else "tensorboard",
            project_config=ProjectConfiguration(project_dir=str(config.run), logging_dir=str(config.run / "logs")),
        )
        from audiogen.signal.mel import MelSpectrogram

        device = self.accelerator.device
        self.front_end = MelSpectrogram(task.mel).to(device) if task.mel is not None else None
        self.model = task.model.to(device)
        self.ema = averaged(self.model, config.ema)
        self.players = task.players()
        self.turns, self.optimizers = [], []
        for player in self.players:
            player.module.to(device)
            trained = [p for p in player.module.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(
                trained,
                lr=config.learning_rate,
                betas=config.betas,
                weight_decay=config.weight_decay,
                fused=device.type in ("cpu", "cuda"),
            )
            turn, optimizer = self.accelerator.prepare(_Turn(player), optimizer)
            self.turns.append(turn)
            self.optimizers.append(optimizer)
        self.modules = {f"player/{p.name}": p.module for p in self.players} | {"ema": self.ema}
        self.states = config.run / "states"
        self.guard, self.skipped = Guard(config.run, config.patience), 0
        self.stop_signal = ""

    # ------------------------------------------------------------------ the loop

    def train(self) -> Summary:
        config, accelerator = self.config, self.accelerator
        start = self._resume()
        if start >= config.steps:
            accelerator.print(f"{config.run} is complete at step {start}; ask for more with --steps")
            return Summary(step=start)
        if accelerator.is_main_process:
            self._write_recipe()
            accelerator.init_trackers("tensorboard")
            if start == 0:
                self._demo(0)
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            summary = self._steps(start)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        accelerator.end_training()
        return summary

    def _steps(self, start: int) -> Summary:
        config, accelerator = self.config, self.accelerator
        meter = _Meter(self, start)
        began, step, losses = time.monotonic(), start, {}
        for step, micros, waited in self._batches(start):
            losses = self._step(step, micros)
            if losses is None and self.guard.decide(state=newest_state(self.states)) == "go back":
                accelerator.print("the run goes back to its last state, and on with the next batches")
                self._resume()
            meter.add(step, losses or {}, waited, micros)
            done = step + 1
            out_of_time = config.minutes is not None and time.monotonic() - began > 60 * config.minutes
            last = done == config.steps or self._agreed(bool(self.stop_signal) or out_of_time)
            if accelerator.is_main_process:
                if last or (done % config.save_every == 0 and not self.guard.in_a_row):
                    self._save(done, meter)
                if done % config.demo_every == 0 or done == config.steps:
                    self._demo(done)
            accelerator.wait_for_everyone()
            if last:
                if self.stop_signal:
                    accelerator.print(f"{self.stop_signal}: saved at step {done}; the same command goes on from there")
                break
        return Summary(step=step + 1, losses=meter.latest, interrupted=self.stop_signal)

    def _step(self, step: int, micros: list[Batch]) -> dict[str, Tensor] | None:
        """One turn of every player. None: something was not finite, and the batch has changed nothing from then on."""
        config, accelerator = self.config, self.accelerator
        logged: dict[str, Tensor] = {}
        for player, turn, optimizer in zip(self.players, self.turns, self.optimizers, strict=True):
            if step < player.start:
                continue
            for other in self.players:
                other.module.requires_grad_(other is player)
            for group in optimizer.param_groups:
                group["lr"] = (player.learning_rate or config.learning_rate) * rate_at(step, config)
            seen: dict[str, Tensor] = {}
            for index, batch in enumerate(micros):
                rng = SampleRng(config.seed, step=step, ids=batch.ids, stream=player.name)
                waiting = index + 1 < len(micros)
                with accelerator.no_sync(turn) if waiting else _nothing():
                    losses = turn(batch, rng)
                    accelerator.backward(losses["loss"] / len(micros))
                for name, value in losses.items():
                    seen[name] = seen.get(name, 0.0) + value.detach() / len(micros)
            norm = accelerator.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], config.clip)
            norm = torch.as_tensor(norm).detach()
            # With fp16 a gradient that overflows is how the loss scale is found, and the scaler skips it by itself.
            finite = torch.isfinite(seen["loss"]) & (torch.isfinite(norm) | (accelerator.scaler is not None))
            bad = self._agreed(not bool(finite))
            if not bad or accelerator.scaler is not None:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)  # now, so that no player's gradients wait through the other's turn
            if bad:
                self._all_may_learn()
                self.skipped += 1
                what = self.guard.failed(step, player.name, micros, seen, norm, write=accelerator.is_main_process)
                accelerator.print(f"{what}: the batch is skipped")
                return None
            prefix = "" if len(self.players) == 1 else f"{player.name}/"
            logged |= {f"{prefix}{name}": value for name, value in seen.items()} | {f"{prefix}gradient": norm}
        self._all_may_learn()
        self.guard.passed()
        self.ema.update_parameters(self.model)
        return logged

    def _all_may_learn(self) -> None:
        for player in self.players:
            player.module.requires_grad_(True)

    def _batches(self, start: int) -> Iterator[tuple[int, list[Batch], float]]:
        """(step, micro-batches on the device with their mels, seconds spent waiting for data)."""
        config, accelerator = self.config, self.accelerator
        sampler = StepSampler(config, start=start, rank=accelerator.process_index, world=accelerator.num_processes)
        loader = DataLoader(
            self.dataset,
            batch_sampler=sampler,
            collate_fn=self.collate,
            num_workers=config.workers,
            pin_memory=accelerator.device.type == "cuda",
            persistent_workers=config.workers > 0,
            multiprocessing_context="spawn" if config.workers else None,
        )
        batches = iter(loader)
        for step in range(start, config.steps):
            asked = time.monotonic()
            micros = [next(batches) for _ in range(config.accumulation)]
            waited = time.monotonic() - asked
            yield step, [self._on_device(batch) for batch in micros], waited

    def _on_device(self, batch: Batch) -> Batch:
        from accelerate.utils import send_to_device

        batch = send_to_device(batch, self.accelerator.device, non_blocking=True)
        if self.front_end is not None and batch.mel is None:
            with torch.no_grad():
                batch = batch._replace(mel=self.front_end(batch.audio))
        return batch

    def _audio_seconds(self, batch: Batch) -> float:
        """Seconds of audio in a step; 0 for notes, which have none."""
        if self.task.mel is None:
            return 0.0
        return self.config.batch_size * batch.audio.shape[-1] / self.task.mel.sample_rate

    # ------------------------------------------------------------------ state

    def _resume(self) -> int:
        newest = newest_state(self.states) if self.states.is_dir() else None
        if newest is None:
            return 0
        step, extra = load_state_folder(newest, modules=self.modules, optimizers=self._plain_optimizers())
        scaler = self.accelerator.scaler
        if scaler is not None and "scaler" in extra:
            scaler.load_state_dict(extra["scaler"])
        if not self.guard.went_back:
            self.guard.load(extra.get("guard", {}))
        self.accelerator.print(f"resuming {self.config.run} at step {step}")
        return step

    def _save(self, step: int, meter: _Meter) -> None:
        scaler = self.accelerator.scaler
        if not self.guard.in_a_row:
            self.guard.saved()
        extra = {"guard": self.guard.state()} | ({"scaler": scaler.state_dict()} if scaler is not None else {})
        save_state(
            self.states / f"step_{step:08d}",
            step=step,
            modules=self.modules,
            optimizers=self._plain_optimizers(),
            extra=extra,
        )
        forget_old_states(self.states, keep=self.config.keep)
        scores = {"step": step, "losses": meter.latest, "steps_per_second": round(meter.speed, 3)}
        save_checkpoint(
            self.config.run / "model",
            self.ema.module,
            room=self.task.room,
            labels=self.labels,
            card=self.card,
            scores=scores,
        )

    def _plain_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {p.name: o.optimizer for p, o in zip(self.players, self.optimizers, strict=True)}

    def _write_recipe(self) -> None:
        self.config.run.mkdir(parents=True, exist_ok=True)
        values = to_dict(self.recipe) if self.recipe is not None else to_dict(self.config)
        (self.config.run / "recipe.json").write_text(json.dumps(values, indent=1, default=str) + "\n")

    def _demo(self, step: int) -> None:
        folder = self.config.run / "demos" / f"step_{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        model = self.ema.module.eval()
        with torch.no_grad():
            self.task.demo(model, folder, step)
        if self.judge is not None and step:
            self._judge(folder, step)

    def _judge(self, folder: Path, step: int) -> None:
        """Score the demo clips, write the score down, and keep the weights where it is the best so far."""
        best = self.config.run / "best"
        known = json.loads((best / "scores.json").read_text())["score"] if (best / "scores.json").is_file() else None
        score = float(self.judge(folder))
        with open(self.config.run / "scores.jsonl", "a") as stream:
            stream.write(json.dumps({"step": step, "score": score}) + "\n")
        better = known is None or score < known
        self.accelerator.print(f"step {step}: demo clips score {score:.4g}"
                               + (", the best so far" if better else f" (best {known:.4g})"))
        if better:
            save_checkpoint(best, self.ema.module, room=self.task.room, labels=self.labels, card=self.card,
                            scores={"step": step, "score": score})

    def _agreed(self, stop: bool) -> bool:
        """True on every process where it is true on one: a signal may reach one alone, and clocks differ."""
        if self.accelerator.num_processes == 1:
            return stop
        return bool(self.accelerator.reduce(torch.tensor(float(stop), device=self.accelerator.device)) > 0)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.stop_signal:  # asked twice: stop at once; the last complete state stands
            raise KeyboardInterrupt
        self.stop_signal = signal.Signals(number).name

    # ------------------------------------------------------------------ --plan and --overfit

    def short(self) -> Summary:
        return self._plan() if self.config.plan else self._overfit()

    def _plan(self) -> Summary:
        """Three steps to warm up, then as many as fit into a few seconds."""
        times = []
        for step, micros, waited in self._batches(0):
            began = time.monotonic()
            if self._step(max(step, *(p.start for p in self.players)), micros) is None:
                raise self.guard.error()
            times.append(time.monotonic() - began + waited)
            if step >= 3 and (sum(times) > 20 or step >= 12):
                break
        measured = sorted(times[2:])[len(times[2:]) // 2]
        plan = {
            "parameters": {p.name: sum(x.numel() for x in p.module.parameters()) for p in self.players},
            "peak memory, MiB": peak_memory_mib(self.accelerator.device),
            "steps per second": round(1 / measured, 3),
            "steps": self.config.steps,
            "hours to finish": round(self.config.steps * measured / 3600, 2),
            "seconds of audio a step": round(self._audio_seconds(micros[0]), 2),
            "device": str(self.accelerator.device),
            "precision": self.accelerator.mixed_precision,
            "processes": self.accelerator.num_processes,
        }
        for name, value in plan.items():
            self.accelerator.print(f"{name:>26}: {value}")
        return Summary(step=0, plan=plan)

    def _overfit(self) -> Summary:
        name, goal = self.overfit_below or ("loss", None)
        history = []
        for step, micros, _ in self._batches(0):
            losses = self._step(step, micros)
            if losses is None:
                raise self.guard.error()
            history.append(float(losses[name]))
            if goal is None:  # a recipe that states no value: a loss of one batch must fall by a third
                goal = round(history[0] - abs(history[0]) / 3, 4)
            recent = sum(history[-20:]) / len(history[-20:])
            if step % self.config.log_every == 0:
                self.accelerator.print(f"step {step}: {name} {recent:.4f} (goal {goal})")
            if len(history) >= 20 and recent < goal:
                self.accelerator.print(
                    f"reached {name} {recent:.4f} < {goal} after {step + 1} steps: the model can learn"
                )
                return Summary(step=step + 1, losses={name: recent})
        recent = sum(history[-20:]) / len(history[-20:])
        falling = recent < 0.9 * sum(history[:20]) / len(history[:20])
        why = (
            "it still falls: give it more --train.steps"
            if falling
            else "it does not fall: try a lower --train.learning-rate, and look at the batch (silent? mislabelled?)"
        )
        raise UserError(
            f"--overfit {self.config.overfit}: {name} is {recent:.4f} after {len(history)} steps, not below {goal}; "
            f"{why}"
        )


class _Meter:
    """Averages, speed, waiting and memory between two log lines."""

    def __init__(self, run: _Run, start: int) -> None:
        self.run, self.latest, self.speed = run, {}, 0.0
        self.file = run.config.run / "log.jsonl"
        self.last_step, self.last_time = start, time.monotonic()
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.waited = self.audio_seconds = 0.0

    def add(self, step: int, losses: dict[str, Tensor], waited: float, micros: list[Batch]) -> None:
        run, config = self.run, self.run.config
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.waited += waited
        self.audio_seconds += run._audio_seconds(micros[0])
        if (step + 1) % config.log_every and step + 1 != config.steps:
            return
        now = time.monotonic()
        elapsed = now - self.last_time
        means = {
            name: float(run.accelerator.reduce(value / self.counts[name], "mean")) for name, value in self.sums.items()
        }
        self.latest = {name: round(value, 5) for name, value in means.items()}
        self.speed = (step + 1 - self.last_step) / elapsed
        line = {
            "step": step + 1,
            **self.latest,
            "learning_rate": rate_at(step, config) * config.learning_rate,
            "steps_per_second": round(self.speed, 3),
            "audio_per_second": round(self.audio_seconds / elapsed, 2),
            "data_wait": round(self.waited / elapsed, 3),
            "peak_mib": peak_memory_mib(run.accelerator.device),
        }
        if run.skipped:
            line["skipped"] = run.skipped
        if run.accelerator.is_main_process:
            with open(self.file, "a") as stream:
                stream.write(json.dumps(line) + "\n")
            left = (config.steps - step - 1) / max(self.speed, 1e-9)
            shown = "  ".join(f"{name} {value:.4g}" for name, value in means.items())
            print(
                f"step {step + 1}/{config.steps}  {shown}  |  {self.speed:.2f} steps/s  "
                f"{line['audio_per_second']:.1f} s audio/s  data wait {line['data_wait']:.0%}  "
                f"{line['peak_mib']} MiB  {left / 60:.0f} min left",
                file=sys.stdout,
                flush=True,
            )
            run.accelerator.log({k: v for k, v in line.items() if k != "step"}, step=step + 1)
        self.last_step, self.last_time = step + 1, time.monotonic()
        self.sums, self.counts, self.waited, self.audio_seconds = {}, {}, 0.0, 0.0


def peak_memory_mib(device: torch.device) -> int:
    """Peak memory of this process so far: on the GPU where it runs there, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> 20 if sys.platform == "darwin" else peak >> 10


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...
