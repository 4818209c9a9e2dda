"""Loads CUDA kernels compiled for the CPU (cuda_on_host.h), as ops of the name space `audiogen_emulated`.

The shared library holds the whole .cu file, kernels and the C++ that takes torch tensors: what runs here is what runs
on a GPU, but for the instructions that cuda_on_host.h stands in for. Compiled once; cached by the hash of all that
goes in.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

import audiogen.ops  # noqa: F401 (defines the ops, and the references that C++ falls back to)
import audiogen.ops.anti_aliased_snake
import audiogen.ops.wavenet_generate  # noqa: F401
from audiogen.ops import build

HERE = Path(__file__).parent
CUDA = build.SOURCES / "cuda"
OPS = {
    "gated_dilated_layer": ("gated_dilated_layer", "gated_dilated_layer_in_place", "gated_dilated_layer_backward"),
    "dilated_conv1d": ("dilated_conv1d", "dilated_conv1d_backward", "dilated_conv1d_step"),
    "anti_aliased_snake": ("anti_aliased_snake", "anti_aliased_snake_backward"),
    "wavenet_generate": ("wavenet_generate",),
}
_libraries: list[torch.library.Library] = []


def cached(name: str, inputs: list[Path], command: list[str], suffix: str) -> Path:
    """The file that `command` writes to its last argument, made anew only where the inputs or the command differ."""
    digest = hashlib.sha256(repr((command, torch.__version__)).encode())
    for path in inputs:
        digest.update(path.name.encode() + path.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"audiogen-test-kernels-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    made = folder / f"{name}.{digest.hexdigest()[:16]}{suffix}"
    with open(folder / f"{made.name}.lock", "w") as lock:  # of several test processes one compiles
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_file():
            half_done = made.with_suffix(".part")
            done = subprocess.run([*command, str(half_done)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{name} does not compile:\n{done.stderr[-4000:]}"
            half_done.replace(made)
    return made


def sources() -> list[Path]:
    return [*sorted(CUDA.glob("*.cu*")), *sorted(HERE.glob("*.h"))]


@functools.cache
def emulated(name: str) -> Any:
    """torch.ops.audiogen_emulated with the ops of csrc/cuda/<name>.cu; skips the test where nothing can be built."""
    if sys.platform != "linux":
        pytest.skip("the emulation switches stacks as Linux does")
    try:
        compiler, headers = build.compiler(), build._headers()
    except build.CannotBuild as reason:
        pytest.skip(str(reason))
    torch_libraries = Path(torch.__file__).parent / "lib"
    command = [
        compiler, "-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-x", "c++", "-DAUDIOGEN_EMULATED",
        "-DTORCH_TARGET_VERSION=0x020a000000000000", "-I", str(HERE), *headers, str(CUDA / f"{name}.cu"), "-x", "none",
        "-L", str(torch_libraries), "-Wl,--no-as-needed", "-ltorch_cpu", "-o",
    ]
    made = cached(name, [path for path in sources() if path.suffix != ".cu" or path.stem == name], command, ".so")
    library = torch.library.Library("audiogen_emulated", "FRAGMENT")
    for op in OPS[name]:
        library.define(str(getattr(torch.ops.audiogen, op).default._schema).removeprefix("audiogen::"))
    _libraries.append(library)
    torch.ops.load_library(str(made))
    return torch.ops.audiogen_emulated
