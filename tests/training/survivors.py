"""Small real trainings for the tests of what kills a run: a diffusion model, a GAN vocoder, an autoregressive model.

Children are forked from a server that has imported all of this once, so that starting one costs nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import accelerate  # noqa: F401  (imported once, for all children)
import torch
import torch._dynamo  # noqa: F401
import torch.utils.tensorboard  # noqa: F401

from audiogen.conditioning.piano_roll import ROLL_DIM
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.generators.diffusion import MelDiffusion, MelDiffusionConfig
from audiogen.generators.networks.gated import GatedConfig
from audiogen.generators.recurrent import RecurrentConfig, RecurrentMel
from audiogen.generators.task import GeneratorTask
from audiogen.training.config import TrainConfig
from audiogen.training.fit import fit
from vocoders.discriminators import DiscriminatorConfig
from vocoders.gan import GANConfig, VocoderTask
from vocoders.vocos import Vocos, VocosConfig

FRAMES = 40
MEL = MelFormat(sample_rate=8000, n_fft=128, win_length=128, hop_length=32, n_mels=16, f_max=4000.0)
TINY = GatedConfig(width=8, depth=2, modulation=8)


class Sounds(torch.utils.data.Dataset):
    """Item k is a pure function of k, as in SegmentDataset."""

    def __init__(self, seconds_an_item: float = 0.0) -> None:
        self.wait = seconds_an_item

    def __getitem__(self, k: int) -> tuple[int, torch.Tensor]:
        time.sleep(self.wait)
        return k, SampleRng(5, ids=[k]).randn(FRAMES * MEL.hop_length)[0]


def collate(items: list[tuple[int, torch.Tensor]]) -> Batch:
    ids = torch.tensor([k for k, _ in items])
    audio = 0.1 * torch.stack([sound for _, sound in items])[:, None]
    aligned = torch.zeros(len(ids), ROLL_DIM, FRAMES)
    aligned[:, 40, 2:9] = 0.5
    vector = torch.stack([SampleRng(6, ids=[int(k)]).randn(4)[0] for k in ids])
    return Batch(audio, None, torch.full_like(ids, FRAMES), Condition(vector=vector, aligned=aligned), ids)


def diffusion() -> GeneratorTask:
    return GeneratorTask(MelDiffusion(MelDiffusionConfig(mel=MEL, gated=TINY, coarse=TINY, vector_dim=4)))


def autoregressive() -> GeneratorTask:
    config = RecurrentConfig(mel=MEL, vector_dim=4, width=16, depth=1, context=TINY, components=2, rank=2)
    return RecurrentMel.task_type(RecurrentMel(config))


def gan() -> VocoderTask:
    discriminator = DiscriminatorConfig(resolutions=((64, 16),), channels=2)
    return VocoderTask(Vocos(VocosConfig(mel=MEL, channels=8, hidden=16, layers=1)),
                       GANConfig(stft=0.0, start=4, magnitude_steps=0, discriminator=discriminator))


KINDS: dict[str, Callable] = {"diffusion": diffusion, "gan": gan, "autoregressive": autoregressive}


def train(kind: str, run: Path, wait: float = 0.0, place: dict[str, str] | None = None, **settings) -> None:
    """Twenty steps of four samples in two micro-batches. A file RUN/begun says that the first step is near.
    place: what a launcher tells a process of its place among others."""
    os.environ.update(place or {})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    values = dict(steps=20, batch_size=4, accumulation=2, warmup=3, log_every=3, save_every=1, demo_every=100, keep=2)
    run.mkdir(parents=True, exist_ok=True)
    task = KINDS[kind]()
    task.demo = lambda *_: None
    (run / "begun").touch()
    summary = fit(task, Sounds(wait), TrainConfig(run=run, **(values | settings)), collate=collate)
    os._exit(summary.exit_code)  # a forked process has nothing to clean up


_SERVER = multiprocessing.get_context("forkserver")


def start(kind: str, run: Path, **settings):
    """A process of its own that trains."""
    _SERVER.set_forkserver_preload(["training.survivors"])
    (run / "begun").unlink(missing_ok=True)
    child = _SERVER.Process(target=train, args=(kind, run), kwargs=settings)
    child.start()
    while not (run / "begun").exists() and child.is_alive():
        time.sleep(0.002)
    return child


def start_all(kind: str, run: Path, world: int, **settings) -> list:
    """So many processes that train together, on CPUs; one is one that trains alone."""
    if world == 1:
        return [start(kind, run, **settings)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return [start(kind, run, place=place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, **settings)
            for rank in range(world)]


def kill(child) -> bool:
    """kill -9. -> whether it was still alive."""
    alive = child.is_alive()
    if alive:
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    return alive and child.exitcode == -signal.SIGKILL
