"""The one training loop: players take turns, through Accelerate; every model of the engine is trained here.

A step s works on the samples s * batch_size ... (s + 1) * batch_size - 1, cut into micro-batches and dealt to the
processes. Samples and noise depend on (seed, step, sample id) only, so the loss curve is the same on one process as on
eight, and a resumed run is the run that never stopped.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from audiogen.core.checkpoint import save_checkpoint
from audiogen.core.config import to_dict
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Player, Task
from audiogen.core.rng import SampleRng
from audiogen.training import plan
from audiogen.training.config import TrainConfig, rate_at
from audiogen.training.demos import Demos
from audiogen.training.ema import averaged
from audiogen.training.guard import Guard
from audiogen.training.lock import alone
from audiogen.training.meter import Meter, forget_peak, peak_memory_mib, recent_peak_mib
from audiogen.training.parcel import InParcels, opened
from audiogen.training.state import forget_old_states, load_state_folder, newest_state, save_state
from audiogen.training.steps import StepSampler, halves, is_out_of_memory
from audiogen.training.updates import updates_for
from audiogen.training.watchdog import STALLED, Watchdog

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
EXIT_CODES = {"": 0, "SIGINT": 130}  # all other signals: 75, "try again", by which schedulers know to requeue


@dataclass
class Summary:
    """What a call of `fit` did. `interrupted` names the signal, where one ended it."""

    step: int
    losses: dict[str, float] = field(default_factory=dict)
    interrupted: str = ""
    plan: dict[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0: complete, or out of --minutes; 130: Ctrl-C; 75: another signal, after which a scheduler should requeue."""
        return EXIT_CODES.get(self.interrupted, STALLED)


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
    run = _Run(task, dataset, config, collate, recipe, labels or {}, card, None, judge)
    with alone(config.run) if run.accelerator.is_main_process else nullcontext():
        return run.train()


class _Run:
    def __init__(self, task, dataset, config, collate, recipe, labels, card, overfit_below, judge) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import ProjectConfiguration

        self.task, self.dataset, self.config, self.collate = task, dataset, config, collate
        self.recipe, self.labels, self.card, self.overfit_below = recipe, labels, card, overfit_below
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
        self.updates = updates_for(self.accelerator, config, self.players, self._agreed)
        self.turns, self.optimizers = [], []
        self.trained: list[list[nn.Parameter]] = []  # each player's; what it came with frozen stays so
        for player in self.players:
            player.module.to(device)
            self.trained.append([p for p in player.module.parameters() if p.requires_grad])
            optimizer = torch.optim.AdamW(
                self.trained[-1],
                lr=config.learning_rate,
                betas=config.betas,
                weight_decay=config.weight_decay,
                fused=device.type in ("cpu", "cuda"),
            )
            turn, optimizer = self.updates.prepare(player, optimizer)
            self.turns.append(turn)
            self.optimizers.append(optimizer)
        self.modules = {f"player/{p.name}": p.module for p in self.players} | {"ema": self.ema}
        self.states = config.run / "states"
        self.guard = Guard(config.run, config.patience)
        self.demos = Demos(config.run, self._make_demos, judge, self._keep, self.accelerator.print)
        self.meter: Meter | None = None
        self.watchdog = Watchdog(
            config.run, rank=self.accelerator.process_index, world=self.accelerator.num_processes, stall=0.0
        )
        self.parts = 1  # into how many each micro-batch is cut, since memory ran out
        self.stop_signal = ""

    # ------------------------------------------------------------------ the loop

    def train(self) -> Summary:
        config, accelerator = self.config, self.accelerator
        start, kept = self._resume()
        if start >= config.steps:
            self._finish(start, kept)
            accelerator.print(f"{config.run} is complete at step {start}; ask for more with --steps")
            return Summary(step=start)
        if accelerator.is_main_process:
            self._write_recipe()
            accelerator.init_trackers("tensorboard")
            self.demos.forget_after(start)
            if start % config.demo_every == 0 and self.demos.missing(start):
                self.demos.write(start)
            (config.run / "unfinished").touch()  # what a job script looks for: shall it go on?
        self.meter = Meter(config, accelerator, start=start, state=kept.get("meter"))
        self.watchdog = Watchdog(
            config.run, rank=accelerator.process_index, world=accelerator.num_processes, stall=config.stall
        )
        previous = {s: signal.signal(s, self._on_signal) for s in SIGNALS}
        try:
            summary = self._steps(start)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.watchdog.close()
        if summary.step >= config.steps and accelerator.is_main_process:
            (config.run / "unfinished").unlink(missing_ok=True)
        accelerator.end_training()
        return summary

    def _finish(self, step: int, kept: dict) -> None:
        """What a kill just after the last state has left to do: the checkpoint, the demos, and to say so."""
        unfinished = self.config.run / "unfinished"
        if unfinished.is_file() and self.accelerator.is_main_process:
            self._save_model(step, kept.get("meter", {}).get("latest", {}))
            self.demos.write(step)
            unfinished.unlink()

    def _steps(self, start: int) -> Summary:
        config, accelerator, meter = self.config, self.accelerator, self.meter
        began, done = time.monotonic(), start
        try:
            for step, micros, waited in self._batches(start):
                losses = self._step(step, micros)
                if losses is None and self.guard.decide(state=newest_state(self.states)) == "go back":
                    accelerator.print("the run goes back to its last state, and on with the next batches")
                    self._resume()
                meter.add(step, losses or {}, waited=waited, audio_seconds=self._audio_seconds(micros[0]))
                done = step + 1
                out_of_time = config.minutes is not None and time.monotonic() - began > 60 * config.minutes
                last = done == config.steps or self._agreed(bool(self.stop_signal) or out_of_time)
                self.watchdog.beat(step, "save")
                if last or (done % config.save_every == 0 and not self.guard.in_a_row):
                    self._save(done)
                self.watchdog.beat(step, "demo")
                if accelerator.is_main_process and (done % config.demo_every == 0 or done == config.steps):
                    self.demos.write(done)
                self.watchdog.beat(step, "synchronise")
                accelerator.wait_for_everyone()
                if last:
                    if self.stop_signal:
                        accelerator.print(
                            f"{self.stop_signal}: saved at step {done}; the same command goes on from there"
                        )
                    break
        except RuntimeError as reason:
            raise self._explained(reason, done) from reason
        return Summary(step=done, losses=meter.latest, interrupted=self.stop_signal)

    def _explained(self, reason: RuntimeError, done: int) -> Exception:
        """What ended the run, as a person would say it. Nothing is saved now: torch raises the death of a worker at
        whatever line the main process has come to, which may be in the middle of an optimizer's step."""
        text = str(reason)
        if "DataLoader worker" in text:
            return UserError(
                f"a data worker died at step {done} ({text.splitlines()[0]}): often for want of memory, so try fewer "
                f"--train.workers than {self.config.workers}; the same command goes on from the last state"
            )
        if self.accelerator.num_processes > 1 and any(
            word in text for word in ("onnection closed", "onnection reset", "Broken pipe", "NCCL", "gloo", "peer")
        ):
            return UserError(
                f"another process was lost at step {done} ({text.splitlines()[0][:160]}): look for the first error "
                "among the processes' messages; the same command goes on from the last state"
            )
        return reason

    def _step(self, step: int, micros: list[Batch]) -> dict[str, Tensor] | None:
        """One turn of every player. None: something was not finite, and the batch has changed nothing from then on."""
        config, accelerator = self.config, self.accelerator
        logged: dict[str, Tensor] = {}
        for player, turn, optimizer in zip(self.players, self.turns, self.optimizers, strict=True):
            if step < player.start:
                continue
            self._let_learn(player)
            for group in optimizer.param_groups:
                group["lr"] = (player.learning_rate or config.learning_rate) * rate_at(step, config)
            seen = self._gradients(step, player, turn, optimizer, micros)
            self.watchdog.beat(step, "synchronise")
            norm, bad = self.updates.step(turn, optimizer, seen["loss"])
            if bad:
                self._let_learn()
                if self.meter is not None:
                    self.meter.skipped += 1
                what = self.guard.failed(step, player.name, micros, seen, norm, write=accelerator.is_main_process)
                accelerator.print(f"{what}: the batch is skipped")
                return None
            prefix = "" if len(self.players) == 1 else f"{player.name}/"
            logged |= {f"{prefix}{name}": value for name, value in seen.items()} | {f"{prefix}gradient": norm}
        self._let_learn()
        self.guard.passed()
        self.ema.update_parameters(self.model)
        return logged

    def _gradients(
        self, step: int, player: Player, turn: nn.Module, optimizer: Any, micros: list[Batch]
    ) -> dict[str, Tensor]:
        """Forward and backward of one player over all micro-batches. Where memory runs out, once more in halves."""
        try:
            return self._forward_and_backward(step, player, turn, self._cut(micros))
        except (RuntimeError, MemoryError) as reason:
            if not is_out_of_memory(reason):
                raise
            if self.parts > 1 or self.accelerator.num_processes > 1 or not self.updates.can_repeat:
                raise self._too_large() from reason
            # What was allocated is let go with this block; the second try stands outside of it.
        self.parts = 2
        self.updates.clear(optimizer)
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        self.accelerator.print(
            f"out of memory at step {step} with micro-batches of {len(micros[0].ids)}: from here on they are halved, "
            f"and a step is the same {self.config.batch_size} samples. Next time: --train.accumulation "
            f"{2 * self.config.accumulation}"
        )
        try:
            return self._forward_and_backward(step, player, turn, self._cut(micros))
        except (RuntimeError, MemoryError) as reason:
            if not is_out_of_memory(reason):
                raise
            raise self._too_large() from reason

    def _forward_and_backward(
        self, step: int, player: Player, turn: nn.Module, micros: list[Batch]
    ) -> dict[str, Tensor]:
        """Gradients of the mean over the samples, and the means of what is logged."""
        samples = sum(len(batch.ids) for batch in micros)
        seen: dict[str, Tensor] = {}
        for index, batch in enumerate(micros):
            self.watchdog.beat(step, "forward")
            rng = SampleRng(self.config.seed, step=step, ids=batch.ids, stream=player.name)
            share = len(batch.ids) / samples
            with self.updates.micro(turn, last=index + 1 == len(micros)):
                losses = turn(batch, rng)
                self.updates.backward(turn, losses["loss"] * share)
            for name, value in losses.items():
                seen[name] = seen.get(name, 0.0) + value.detach() * share
        return seen

    def _cut(self, micros: list[Batch]) -> list[Batch]:
        return [part for batch in micros for part in halves(batch)] if self.parts > 1 else micros

    def _too_large(self) -> UserError:
        """The way out, where memory ran out and halving does not help or is not possible."""
        per = self.config.batch_size // self.config.accumulation // self.accelerator.num_processes
        return UserError(
            f"out of memory with micro-batches of {per} samples{', halved once' if self.parts > 1 else ''}: ask for "
            f"--train.accumulation {2 * self.config.accumulation * self.parts}, shorter segments or a smaller model; "
            "the same command goes on from the last state"
        )

    def _let_learn(self, player: Player | None = None) -> None:
        """Gradients for one player's weights only, or again for those of all."""
        if len(self.players) > 1:
            for other, trained in zip(self.players, self.trained, strict=True):
                for parameter in trained:
                    parameter.requires_grad_(player is None or other is player)

    def _batches(self, start: int) -> Iterator[tuple[int, list[Batch], float]]:
        """(step, micro-batches on the device with their mels, seconds spent waiting for data)."""
        config, accelerator = self.config, self.accelerator
        sampler = StepSampler(config, start=start, rank=accelerator.process_index, world=accelerator.num_processes)
        loader = DataLoader(
            self.dataset,
            batch_sampler=sampler,
            collate_fn=InParcels(self.collate),
            num_workers=config.workers,
            pin_memory=accelerator.device.type == "cuda",
            persistent_workers=config.workers > 0,
            multiprocessing_context="spawn" if config.workers else None,
        )
        batches = iter(loader)
        for step in range(start, config.steps):
            self.watchdog.beat(step, "data")
            asked = time.monotonic()
            micros = [next(batches) for _ in range(config.accumulation)]
            waited = time.monotonic() - asked
            yield step, [self._on_device(batch) for batch in micros], waited

    def _on_device(self, batch: Batch) -> Batch:
        from accelerate.utils import send_to_device

        batch = opened(send_to_device(batch, self.accelerator.device, non_blocking=True))
        if self.front_end is not None and batch.mel is None and batch.latents is None:
            with torch.no_grad():
                batch = batch._replace(mel=self.front_end(batch.audio))
        return batch

    def _audio_seconds(self, batch: Batch) -> float:
        """Seconds of audio in a step; 0 for notes, which have none."""
        if self.task.mel is None:
            return 0.0
        time = batch.audio.shape[-1]
        if not time:  # packed mels and latents
            frames = batch.mel if batch.mel is not None else batch.condition.aligned
            time = frames.shape[-1] * self.task.mel.hop_length
        return self.config.batch_size * time / self.task.mel.sample_rate

    # ------------------------------------------------------------------ state

    def _resume(self) -> tuple[int, dict]:
        """-> the step to go on with, and what else the state kept."""
        newest = newest_state(self.states) if self.states.is_dir() else None
        if newest is None:
            return 0, {}
        step, extra = load_state_folder(newest, modules=self.modules, optimizers=self._plain_optimizers())
        scaler = self.accelerator.scaler
        if scaler is not None and "scaler" in extra:
            scaler.load_state_dict(extra["scaler"])
        if not self.guard.went_back:
            self.guard.load(extra.get("guard", {}))
        self.accelerator.print(f"resuming {self.config.run} at step {step}")
        return step, extra

    def _save(self, step: int) -> None:
        """Called by every process: weights may be spread over them. The first one writes."""
        scaler, write = self.accelerator.scaler, self.accelerator.is_main_process
        if not self.guard.in_a_row:
            self.guard.saved()
        extra = {"guard": self.guard.state(), "meter": self.meter.state()}
        if scaler is not None:
            extra["scaler"] = scaler.state_dict()
        save_state(
            self.states / f"step_{step:08d}",
            step=step,
            modules=self.modules,
            optimizers=self._plain_optimizers(),
            extra=extra,
            write=write,
        )
        if not write:
            return
        forget_old_states(self.states, keep=self.config.keep, keep_every=self.config.keep_every)
        self._save_model(step, self.meter.latest, steps_per_second=round(self.meter.speed, 3))

    def _save_model(self, step: int, losses: dict[str, float], **more: Any) -> None:
        self._keep(self.config.run / "model", {"step": step, "losses": losses, **more})

    def _keep(self, folder: Path, scores: dict[str, Any]) -> None:
        """The averaged weights, as a checkpoint."""
        save_checkpoint(folder, self.ema.module, room=self.task.room, labels=self.labels, card=self.card, scores=scores)

    def _plain_optimizers(self) -> dict[str, Any]:
        return {player.name: self.updates.moments(turn, optimizer)
                for player, turn, optimizer in zip(self.players, self.turns, self.optimizers, strict=True)}

    def _write_recipe(self) -> None:
        self.config.run.mkdir(parents=True, exist_ok=True)
        values = to_dict(self.recipe) if self.recipe is not None else to_dict(self.config)
        (self.config.run / "recipe.json").write_text(json.dumps(values, indent=1, default=str) + "\n")

    def _make_demos(self, folder: Path, step: int) -> None:
        with torch.no_grad():
            self.task.demo(self.ema.module.eval(), folder, step)

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
        """Peak memory at small micro-batches and, where there is room, at the one asked for; then speed."""
        config, accelerator = self.config, self.accelerator
        share = config.batch_size // accelerator.num_processes
        asked = StepSampler(config, start=0, rank=0, world=accelerator.num_processes).micro
        last = max(player.start for player in self.players)

        def step(size: int) -> None:
            batch = self._on_device(self.collate([self.dataset[k] for k in range(size)]))
            if self._step(last, [batch]) is None:
                raise self.guard.error()

        device = accelerator.device
        sizes = sorted({min(size, share) for size in (2, 6, 12)})
        peaks = plan.measure(sizes, step, lambda: forget_peak(device), lambda: recent_peak_mib(device))
        base, slope = plan.line_through(sizes, peaks)
        before = peak_memory_mib(device)  # what loading took, which a small step stays below
        found: dict[str, Any] = {
            "parameters": {p.name: sum(x.numel() for x in p.module.parameters()) for p in self.players}
        }
        micro, accumulation = asked, config.accumulation
        if config.memory is not None:
            budget = plan.bytes_of(config.memory) / 2**20
            micro = plan.largest_micro_batch(base, slope, budget, share=share)
            if not micro:
                raise UserError(
                    f"--train.memory {config.memory}: one sample at a time takes {base + slope:.0f} MiB already; "
                    "shorter segments, or a smaller model"
                )
            accumulation = share // micro
            found["fits into memory"] = f"{config.memory}: --train.accumulation {accumulation}"
        found["micro-batch"] = f"{micro} samples x {accumulation} a step and process"
        found["peak memory, MiB"] = round(max(before, base + slope * micro))
        per_step = plan.time_of(lambda: [step(micro) for _ in range(accumulation)])
        found |= {
            "steps per second": round(1 / per_step, 3),
            "steps": config.steps,
            "hours to finish": round(config.steps * per_step / 3600, 2),
        }
        if self.task.mel is not None:
            batch = self.collate([self.dataset[0]])
            found["seconds of audio a step"] = round(self._audio_seconds(batch), 2)
        found |= {
            "device": str(accelerator.device),
            "precision": accelerator.mixed_precision,
            "processes": accelerator.num_processes,
        }
        plan.show(found, accelerator.print)
        return Summary(step=0, plan=found)

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
