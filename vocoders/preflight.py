"""What is checked before the first step of a training: each thing that would fail hours later, or never sound.

Every problem is one `UserError` with the way out; what is only worth knowing is a line to be printed.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.rng import SampleRng
from audiogen.signal.mel import MelSpectrogram
from vocoders.gan import VocoderTask
from vocoders.rates import suggest

if TYPE_CHECKING:  # rooms on one floor do not import each other
    from audiogen.data.manifest import Entry

ADAM = 2  # moments, each as large as the weights
MIB = 1 << 20


def check_length(model: nn.Module) -> None:
    """The model makes hop_length samples of a frame: its rates multiply to the hop."""
    format = model.config.mel
    if hasattr(model, "loss"):  # renders step by step, which takes long; its loss compares lengths itself
        return
    mel = torch.full((1, format.n_mels, 4), format.lowest)
    parameter = next(iter(model.parameters()), mel)
    with torch.no_grad():
        found = model(mel.to(parameter.device), rng=SampleRng(0)).shape[-1]
    if found != 4 * format.hop_length:
        good = suggest(format.sample_rate, format.hop_length)
        raise UserError(
            f"{type(model).__name__} makes {found / 4:g} samples a frame where the mel format has "
            f"hop_length={format.hop_length}: its rates must multiply to that, e.g. {good.rates} with kernels "
            f"{good.kernels}"
        )


def check_segment(task: VocoderTask, frames: int) -> None:
    """A training segment is long enough for the losses, and for one sample at least to hear all that it depends on."""
    hop_length = task.mel.hop_length
    context = getattr(task.model, "context_frames", None) or 0
    need = max(2 * context + 1, math.ceil(task.shortest / hop_length))
    if frames < need:
        why = (f"the model sees {context} frames on either side" if need == 2 * context + 1
               else f"the losses need {task.shortest} samples")
        raise UserError(
            f"data.frames={frames} ({frames * hop_length} samples) is too short, for {why}: take --data.frames {need} "
            "or more, or a model that sees less"
        )


def check_sample_rates(entries: Iterable[Entry], sample_rate: int, *, where: str) -> list[Entry]:
    """The entries that hold what the mel format asks for, and a printed line about those that do not.

    A file of a lower rate has nothing above half of that: a vocoder trained on it would learn to leave that empty.
    """
    entries = list(entries)
    kept = [entry for entry in entries if entry.sample_rate >= sample_rate]
    if not kept and entries:
        highest = max(entry.sample_rate for entry in entries)
        raise UserError(
            f"{where}: none of {len(entries)} files has the mel format's {sample_rate} Hz or more, the highest rate is "
            f"{highest} Hz: take a preset for that rate, or --model.mel.sample-rate {highest} --model.mel.f-max "
            f"{highest / 2:g}"
        )
    if len(kept) < len(entries):
        print(f"{where}: {len(entries) - len(kept)} of {len(entries)} files have less than {sample_rate} Hz and are "
              "left out")
    return kept


def check_disk(task: VocoderTask, run: Path, *, keep: int) -> None:
    """`keep` + 1 training states and the checkpoint fit beside the run."""
    modules = {player.name: player.module for player in task.players()}
    state = sum((1 + ADAM) * _bytes(module) for module in modules.values()) + _bytes(task.model)
    need = (keep + 1) * state + 2 * _bytes(task.model)
    home = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
    free = shutil.disk_usage(home).free
    if need > free:
        raise UserError(
            f"{home} has {free // MIB} MiB free, and this training writes {need // MIB} MiB ({keep} + 1 states of "
            f"{state // MIB} MiB): free some space, choose another --train.run, or keep fewer by --train.keep"
        )


def guess_memory(task: VocoderTask, *, clips: int, frames: int) -> int:
    """Bytes that a step on `clips` clips of `frames` frames needs, about: weights, gradients, moments and average, and
    what the backward pass keeps, measured on one short clip and scaled."""
    format = task.mel
    # Short, but two of the shortest: what does not grow with time then counts less.
    short = min(frames, 2 * math.ceil(task.shortest / format.hop_length))
    with torch.random.fork_rng():
        time = short * format.hop_length
        audio = 0.1 * torch.randn(1, 1, time, generator=torch.Generator().manual_seed(0))
        mel = MelSpectrogram(format)(audio)
        batch = Batch(audio, mel, torch.tensor([short]), Condition(), torch.tensor([0]))
        most, seen = 0, {}

        def count(tensor: Tensor) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        weights = sum(_bytes(player.module) for player in task.players())
        for player in task.players():
            seen = {}
            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                player.loss(batch, SampleRng(0, step=1 << 40, ids=[0]))
            most = max(most, sum(seen.values()) - _bytes(player.module))
    return (2 + ADAM) * weights + _bytes(task.model) + max(0, most) * clips * frames // short


def check_memory(task: VocoderTask, *, clips: int, frames: int, accumulation: int, device: torch.device) -> int:
    """-> the guess of `guess_memory`. An error where it is more than the device has at all, for a guess may be wrong by
    a half; a printed line where it is more than is free now."""
    need, (free, total) = guess_memory(task, clips=clips, frames=frames), memory(device)
    if total and need > total:
        raise UserError(
            f"a step on {clips} clips of {frames} frames needs about {need // MIB} MiB, and {device} has "
            f"{total // MIB} MiB: try --train.accumulation {accumulation * 2 ** math.ceil(math.log2(need / total))}, "
            "a smaller --train.batch-size or shorter --data.frames (--train.plan measures it)"
        )
    if free and need > free:
        print(f"a step needs about {need // MIB} MiB, and {free // MIB} MiB are free now on {device}")
    return need


def memory(device: torch.device) -> tuple[int, int]:
    """(free, total) bytes of the device; (0, 0) where that cannot be known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return tuple(int(lines[name].split()[0]) << 10 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        return 0, 0


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
