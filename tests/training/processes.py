"""Run by test_processes.py under `accelerate launch`: trains the toy of test_fit.py.

    processes.py OUT KIND ddp|fsdp|deepspeed all|"one step"|dies|stalls|nan|bf16 ACCUMULATION

"dies" and "stalls": the last process does so in the fifth step. "nan": the loss of the fourth step is not finite.
"""

import os
import signal
import sys
import time
from pathlib import Path

import accelerate
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parent))
import test_fit as toys  # noqa: E402

import audiogen.generators  # noqa: E402
from audiogen.training.updates import blocks  # noqa: E402

audiogen.generators.TABLE["toy"] = "test_fit:Toy"


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv1d(8, 8, 1)

    def forward(self, x):
        return x + self.inner(x).tanh()


class Stack(toys.ToyTask):
    """The toy with a list of layers before its own, which sharding is to find."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.model.layers = nn.ModuleList([Layer(), Layer()])

    def players(self):
        def loss(batch, rng):
            mel = batch.mel
            for layer in self.model.layers:
                mel = layer(mel)
            return self.model.loss(batch._replace(mel=mel), rng)

        return [toys.Player("toy", self.model, loss)]

    def demo(self, model, folder, step):
        """A checkpoint of it could not be loaded again, for Toy has no layers; nobody asks for one."""


class LastFails(toys.Data):
    """The last process never sees the fifth step's samples."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __getitem__(self, k: int):
        if k >= 16 and os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1):
            if self.how == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)
        return super().__getitem__(k)


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, kind, how, much, accumulation = sys.argv[1:]
    if how != "ddp":
        import cpus_as_devices  # noqa: F401
    # Where it goes on, it begins with other weights, which the state must replace.
    build = Stack if kind == "Stack" else getattr(toys, kind)
    task = build(seed=99 if (Path(out) / "run" / "states").is_dir() else 0)
    if much == "nan":
        task = toys.Poisoned(lambda step: step == 3)
    config = toys.config(Path(out), steps=6, accumulation=int(accumulation),
                         minutes=0.0 if much == "one step" else None, stall=3.0 if much == "stalls" else 600.0,
                         precision="bf16" if much == "bf16" else None)
    rank = int(os.environ.get("RANK", 0))
    micros = iter(toys.StepSampler(config, start=0, rank=rank, world=int(os.environ.get("WORLD_SIZE", 1))))
    noise = [toys.SampleRng(0, step=0, ids=[k], stream="toy").randn(3)[0]
             for _ in range(config.accumulation) for k in next(micros)]
    torch.save(torch.stack(noise), Path(out) / f"noise_{rank}.pt")
    data = LastFails(much) if much in ("dies", "stalls") else toys.Data()
    toys.fit(task, data, config, collate=toys.collate)
    if how != "ddp":
        assert str(accelerate.Accelerator().distributed_type.value) == how.upper()
    assert all(isinstance(p, DTensor) for p in task.model.parameters()) is (how == "fsdp")
    assert all(isinstance(layer, FSDPModule) is (how == "fsdp") for layer in blocks(task.model))
