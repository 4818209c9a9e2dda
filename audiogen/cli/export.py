"""audiogen export: a vocoder for other programs, as ONNX or as a torch.export program."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from audiogen.core.errors import UserError

SUFFIXES = (".onnx", ".pt2")


@dataclass(frozen=True)
class Export:
    """Write a vocoder as a graph: input mel (1, n_mels, frames), output audio (1, 1, frames * hop_length), any frames.

    A vocoder that draws noise has further inputs noise_0, ... of normal numbers. Autoregressive vocoders and
    Griffin-Lim are no graphs and say so.

    examples:
      audiogen export hifigan/ -o hifigan.onnx
      audiogen export runs/vocos/model -o vocos.pt2
    """

    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")]
    """A vocoder's checkpoint folder, or an engine that has one."""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE")]
    """What to write: .onnx, or .pt2 (torch.export.load)."""

    def run(self) -> int:
        if self.out.suffix not in SUFFIXES:
            raise UserError(f"{self.out} names no kind of export: choose a file ending in {' or '.join(SUFFIXES)}")
        from audiogen.core.checkpoint import load_checkpoint
        from vocoders.export import save_onnx, save_program

        inside = self.checkpoint / "vocoder"
        loaded = load_checkpoint(inside if inside.is_dir() else self.checkpoint, room="vocoder")
        (save_onnx if self.out.suffix == ".onnx" else save_program)(loaded.model, self.out)
        print(f"{self.out}  {loaded.name}, {self.out.stat().st_size / 2**20:.1f} MiB, mel format {loaded.mel.hash()}")
        return 0
