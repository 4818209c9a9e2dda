"""Where CUDA kernels are tested: on the CPU, emulated, everywhere; and on a GPU, where there is one."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from ops.emulation.emulated import CUDA, emulated

from audiogen.ops import library


class Where(NamedTuple):
    """A place to run a kernel: its ops, and the device that they take tensors of."""

    ops: Any
    device: str

    def run(self, op: str, *arguments: Any) -> Any:
        """Arguments to the device, the op, results back to the CPU."""
        moved = [part.to(self.device) if isinstance(part, torch.Tensor) else part for part in arguments]
        results = getattr(self.ops, op)(*moved)
        return tuple(one.cpu() for one in results) if isinstance(results, (tuple, list)) else results.cpu()


PLACES = ["emulated", "gpu"]


def place(name: str, kernels: str) -> Where:
    """The ops of csrc/cuda/<kernels>.cu at "emulated" or "gpu"; skips the test where that is not to be had."""
    if name == "emulated":
        return Where(emulated(kernels), "cpu")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    assert library.loaded("cuda"), "the CUDA kernels are not built: python -m audiogen.ops.build cuda"
    return Where(torch.ops.audiogen, "cuda")


def surrounded(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers and strides in memory that goes on with NaN on both sides: what reads beyond them shows it."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return tensor
    span = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    margin = 64
    memory = torch.full((span + 2 * margin,), float("nan"), dtype=tensor.dtype)
    memory = memory[-memory.data_ptr() // tensor.element_size() % 16 :]  # to a multiple of 16 bytes
    copy = memory[32 : 32 + span].as_strided(tensor.shape, tensor.stride())
    return copy.copy_(tensor)


def lines_of(name: str, call: str) -> list[str]:
    """Where csrc/cuda/<name> has `call`: "file:line" each, as AUDIOGEN_EMULATION_SKIP wants it."""
    lines = (CUDA / name).read_text().splitlines()
    return [f"{name}:{number}" for number, line in enumerate(lines, 1) if call in line and not line.startswith("//")]
