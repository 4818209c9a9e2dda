"""Vocoders for other programs: a torch.export program (.pt2) or ONNX, with any number of frames.

What is exported is a pure function of tensors. Noise cannot be drawn inside, so that a vocoder which reads its tape is
given the numbers as further inputs: "noise_0" (batch, channels, time), ..., in the order in which it reads them; their
sizes are proportional to the frames. `inputs_for` makes them from a `SampleRng`, the very numbers that `forward` reads.

Our native operations are replaced by their PyTorch references, so that a program runs where audiogen is not installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.registry import name_of
from audiogen.core.rng import SampleRng

FRAMES = 24  # of the mel that the graph is recorded with; a number that is no other size, so that none is taken for it


@dataclass(frozen=True)
class Draw:
    """What a model reads of a tape when it renders one clip."""

    kind: str  # "tape_randn" or "tape_rand"
    stream: tuple[str, ...]  # the forks that lead there
    channels: int
    per_frame: int  # positions


class _Recorder:
    """In place of a `SampleRng`: notes what is read."""

    def __init__(self, source: SampleRng, frames: int, draws: list[Draw], stream: tuple[str, ...] = ()) -> None:
        self.source, self.frames, self.draws, self.stream = source, frames, draws, stream

    def __len__(self) -> int:
        return len(self.source)

    def fork(self, stream: str) -> _Recorder:
        return _Recorder(self.source.fork(stream), self.frames, self.draws, (*self.stream, stream))

    def tape_randn(self, channels: int, start: int, stop: int, *, device: Any = "cpu") -> Tensor:
        return self._read("tape_randn", channels, start, stop, device)

    def tape_rand(self, channels: int, start: int, stop: int, *, device: Any = "cpu") -> Tensor:
        return self._read("tape_rand", channels, start, stop, device)

    def _read(self, kind: str, channels: int, start: int, stop: int, device: Any) -> Tensor:
        if start or stop % self.frames:
            raise UserError(f"noise of {stop - start} positions for {self.frames} frames cannot be an input")
        self.draws.append(Draw(kind, self.stream, channels, stop // self.frames))
        return getattr(self.source, kind)(channels, start, stop, device=device)


class _Given:
    """In place of a `SampleRng`: hands out the inputs, in order."""

    def __init__(self, numbers: Iterator[Tensor], batch: int) -> None:
        self.numbers, self.batch = numbers, batch

    def __len__(self) -> int:
        return self.batch

    def fork(self, stream: str) -> _Given:
        return self

    def tape_randn(self, channels: int, start: int, stop: int, *, device: Any = "cpu") -> Tensor:
        return next(self.numbers)

    tape_rand = tape_randn


class Exported(nn.Module):
    """A vocoder as a function of a mel and of the noise that it reads."""

    def __init__(self, model: nn.Module, draws: tuple[Draw, ...]) -> None:
        super().__init__()
        self.model, self.draws = model, draws

    def forward(self, mel: Tensor, *noise: Tensor) -> Tensor:
        """mel (1, n_mels, frames), noise (1, channels, positions) each -> audio (1, 1, frames * hop_length)."""
        return self.model(mel, rng=_Given(iter(noise), 1) if self.draws else None)


def draws_of(model: nn.Module) -> tuple[Draw, ...]:
    """What `model` reads of its tape, in order. Raises `UserError` for a vocoder that cannot be exported, with why."""
    name = name_of("vocoder", type(model))
    if hasattr(model, "stream"):
        raise UserError(f"{name} draws each sample from the one before: that is a loop, and no graph to export")
    if model.context_frames is None:
        raise UserError(
            f"{name} iterates over the whole clip in complex numbers and cannot be exported; hifigan and vocos can"
        )
    draws: list[Draw] = []
    with torch.no_grad():
        model(torch.full((1, model.config.mel.n_mels, FRAMES), model.config.mel.lowest),
              rng=_Recorder(SampleRng(0), FRAMES, draws))
    return tuple(draws)


def inputs_for(model: nn.Module, mel: Tensor, rng: SampleRng | None = None) -> tuple[Tensor, ...]:
    """mel (1, n_mels, frames) -> all inputs of the program, which then renders what `model(mel, rng=rng)` does."""
    noise = []
    for draw in draws_of(model):
        source = rng or SampleRng(0)
        for stream in draw.stream:
            source = source.fork(stream)
        noise.append(getattr(source, draw.kind)(draw.channels, 0, draw.per_frame * mel.shape[2]))
    return (mel, *noise)


def to_program(model: nn.Module) -> torch.export.ExportedProgram:
    """A vocoder -> a program of ATen operations; batch 1, any number of frames from 2 on (MelGAN: 4)."""
    model = model.eval()
    draws = draws_of(model)
    inputs = inputs_for(model, torch.full((1, model.config.mel.n_mels, FRAMES), model.config.mel.lowest))
    frames = {2: torch.export.Dim.DYNAMIC}
    shapes = {"mel": frames, "noise": tuple(frames for _ in draws)} if draws else {"mel": frames}
    with torch.no_grad(), _quiet():
        return torch.export.export(Exported(model, draws), inputs, dynamic_shapes=shapes)


def save_program(model: nn.Module, path: str | Path) -> None:
    """Write a .pt2 file; `torch.export.load(path).module()` is the function."""
    from audiogen.core.files import whole_file

    program = to_program(model)
    with whole_file(path) as part:
        torch.export.save(program, part)


def save_onnx(model: nn.Module, path: str | Path) -> None:
    """Write an .onnx file with inputs "mel", "noise_0", ... and the output "audio"."""
    try:
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError:
        raise UserError("ONNX export needs the packages onnx and onnxscript: pip install 'audiogen[export]'") from None
    from audiogen.core.files import whole_file

    program = to_program(model)
    names = ["mel", *(f"noise_{index}" for index in range(len(draws_of(model))))]
    with torch.no_grad(), _quiet():
        made = torch.onnx.export(program, dynamo=True, input_names=names, output_names=["audio"], verbose=False)
        with whole_file(path) as part:
            made.save(str(part))


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporters warn of their own insides."""
    import logging

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
