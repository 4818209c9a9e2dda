"""What does the training loop cost, and does it survive? Its overhead over a bare PyTorch loop, and 100 kills.

    python benchmarks/training_loop.py --json benchmarks/results/training_loop.json
    python benchmarks/training_loop.py --measure kills --kills 100
    python benchmarks/training_loop.py --measure kills --processes 2

overhead  100 steps of the same model, data and optimizer in our loop and in a bare one (loss, backward, clipping,
          AdamW, average of the weights), in CPU time on one thread; the set-up of both is taken off by running 10
          steps too. --repeats alternating runs; the quickest of each are compared, since what a shared machine adds
          is never less than nothing, and their medians are told.
memory    --train.plan's prediction of the peak memory against the peak of a real run, in processes of their own
kills     trainings of a diffusion model, a GAN vocoder and an autoregressive model are killed (SIGKILL) at random
          moments, states being written at every step, until each has been killed its share of --kills times; what they
          end with (weights, average, moments, log) is compared bit for bit with runs that were never stopped. Of
          several --processes one is killed and, a moment later, the others (a launcher does so), or all at once
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "tests")]

from benchmarks.clip import machine  # noqa: E402  (runs outside an installed audiogen)

MEASURES = ("overhead", "memory", "kills")


@dataclass(frozen=True)
class Benchmark:
    """Measure the training loop."""

    measure: tuple[str, ...] = MEASURES
    """overhead, memory, kills."""
    steps: int = 100
    repeats: int = 9
    kills: int = 100
    processes: int = 1
    """How many train together in the runs that are killed."""
    json: Path | None = None
    """Also write the figures here."""

    def run(self) -> int:
        torch.set_num_threads(1)
        result: dict[str, Any] = dict(machine())
        with tempfile.TemporaryDirectory() as folder:
            if "overhead" in self.measure:
                result["overhead"] = overhead(Path(folder), self.steps, self.repeats)
                print("overhead of the loop: {share:.1%} of {bare seconds:.2f} s CPU, {share of medians:.1%} by medians"
                      .format(**result["overhead"]))
            if "memory" in self.measure:
                result["memory"] = memory(Path(folder))
                for row in result["memory"]:
                    print("peak memory, {samples} samples: {predicted} MiB predicted, {real} MiB real".format(**row))
            if "kills" in self.measure:
                name = "kills" if self.processes == 1 else f"kills of {self.processes} processes"
                result[name] = kills(Path(folder), self.kills, self.processes)
                for kind, row in result[name].items():
                    print(f"{kind}: killed {row['kills']} times ({row['during a save']} during a save), "
                          f"{row['equal']} of {row['runs']} runs end bit-equal")
        if self.json is not None:
            if self.json.is_file():
                result = json.loads(self.json.read_text()) | result
            self.json.write_text(json.dumps(result, indent=1) + "\n")
        return 0


# ---------------------------------------------------------------------------------------------------- overhead


def _task():
    from audiogen.generators.diffusion import MelDiffusion, MelDiffusionConfig
    from audiogen.generators.networks.gated import GatedConfig
    from audiogen.generators.task import GeneratorTask

    torch.manual_seed(0)
    config = MelDiffusionConfig(gated=GatedConfig(width=64, depth=4), coarse=GatedConfig(width=64, depth=4, means=()))
    return GeneratorTask(MelDiffusion(config))


class _Sounds(torch.utils.data.Dataset):
    def __getitem__(self, k: int):
        from audiogen.core.rng import SampleRng

        return k, 0.1 * SampleRng(5, ids=[k]).randn(1, 64 * 256)[0]


def _collate(items):
    from audiogen.core.interfaces import Batch, Condition

    ids = torch.tensor([k for k, _ in items])
    condition = Condition(vector=torch.zeros(len(ids), 64), aligned=torch.zeros(len(ids), 265, 64))
    return Batch(torch.stack([sound for _, sound in items]), None, torch.full_like(ids, 64), condition, ids)


def _ours(folder: Path, steps: int) -> float:
    from audiogen.training.config import TrainConfig
    from audiogen.training.fit import fit

    task = _task()
    task.demo = lambda *_: None
    began = time.process_time()
    config = TrainConfig(run=folder, steps=steps, batch_size=8, save_every=10**6, demo_every=10**6)
    fit(task, _Sounds(), config, collate=_collate)
    return time.process_time() - began


def _bare(folder: Path, steps: int) -> float:
    from audiogen.core.rng import SampleRng
    from audiogen.signal.mel import MelSpectrogram
    from audiogen.training.ema import averaged

    task, data = _task(), _Sounds()
    model, front_end = task.model, MelSpectrogram(task.mel)
    began = time.process_time()
    ema = averaged(model, 0.999)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    for step in range(steps):
        batch = _collate([data[k] for k in range(8 * step, 8 * step + 8)])
        batch = batch._replace(mel=front_end(batch.audio))
        model.loss(batch, SampleRng(0, step=step, ids=batch.ids, stream="generator"))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update_parameters(model)
    return time.process_time() - began


def overhead(folder: Path, steps: int, repeats: int) -> dict[str, Any]:
    """CPU seconds of `steps` steps, ours and bare, alternating."""
    short, long = 10, 10 + steps
    rows: dict[str, dict[int, list[float]]] = {name: {short: [], long: []} for name in ("ours", "bare")}
    for repeat in range(repeats):
        for name, run in (("ours", _ours), ("bare", _bare)):
            for count in (short, long):
                rows[name][count].append(run(folder / f"{name}{repeat}_{count}", count))
    quickest = {name: min(taken[long]) - min(taken[short]) for name, taken in rows.items()}
    medians = {name: statistics.median(taken[long]) - statistics.median(taken[short]) for name, taken in rows.items()}
    return {"ours seconds": quickest["ours"], "bare seconds": quickest["bare"],
            "share": quickest["ours"] / quickest["bare"] - 1, "share of medians": medians["ours"] / medians["bare"] - 1,
            "runs": rows, "steps": steps}


# ---------------------------------------------------------------------------------------------------- memory

CHILD = """
import sys; sys.path[:0] = {path!r}
import torch; torch.set_num_threads(1)
from pathlib import Path
from audiogen.training.config import TrainConfig
from audiogen.training.fit import fit
from audiogen.training.meter import peak_memory_mib
from benchmarks import training_loop as t
task = t._task(); task.demo = lambda *_: None
config = TrainConfig(run=Path({folder!r}), steps=3, batch_size={samples}, plan={plan}, save_every=100)
summary = fit(task, t._Sounds(), config, collate=t._collate)
print("PEAK", summary.plan.get("peak memory, MiB") or peak_memory_mib(torch.device("cpu")))
"""


def memory(folder: Path) -> list[dict[str, Any]]:
    """Predicted and real peaks at sizes that the plan does not try."""
    rows = []
    for samples in (16, 48, 128):
        found = {}
        for name, plan in (("predicted", True), ("real", False)):
            code = CHILD.format(path=sys.path[:2], folder=str(folder / f"{name}{samples}"), samples=samples, plan=plan)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            found[name] = int(done.stdout.rpartition("PEAK ")[2])
        rows.append({"samples": samples, **found})
    return rows


# ---------------------------------------------------------------------------------------------------- kills


def kills(folder: Path, count: int, world: int) -> dict[str, Any]:
    """kind -> how often it was killed, and how many of its runs ended bit-equal."""
    from training import survivors
    from training.outcome import outcome

    moments, result = random.Random(0), {}
    for kind in survivors.KINDS:
        whole = folder / f"{kind}_whole"
        children, began = survivors.start_all(kind, whole, world, wait=0.005), time.monotonic()
        for child in children:
            child.join()
        expected, took = outcome(whole), time.monotonic() - began
        row = {"kills": 0, "during a save": 0, "runs": 0, "equal": 0}
        while row["kills"] < -(-count // len(survivors.KINDS)):
            run = folder / f"{kind}_{row['runs']}"
            while True:
                children = survivors.start_all(kind, run, world, wait=0.005)
                children[0].join(moments.uniform(0.05, took))
                if not children[0].is_alive():
                    break
                victims = children if world == 1 or moments.random() < 0.5 else [moments.choice(children)]
                killed = [survivors.kill(child) for child in victims]
                row["kills"] += any(killed)
                row["during a save"] += any(killed) and any((run / "states").glob(".step_*.part"))
                for child in children:
                    child.join(moments.uniform(0.0, 1.0))
                    survivors.kill(child)
            for child in children:
                child.join()
            row["runs"] += 1
            found = outcome(run)
            row["equal"] += found == expected
            different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            if different:
                print(f"{run.name} differs in {', '.join(different)}", file=sys.stderr)
        result[kind] = row
    return result


if __name__ == "__main__":
    import tyro

    sys.exit(tyro.cli(Benchmark, description=__doc__).run())
