"""Which kernels are live: loads the native libraries that `audiogen.ops.build` has made.

AUDIOGEN_KERNELS=off      plain PyTorch for every op
                 auto     the default: native kernels where they have been built
                 require  an error where they have not
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from audiogen.core.errors import UserError
from audiogen.ops import build

MODES = ("off", "auto", "require")
_loaded: dict[str, Path] = {}


def load() -> None:
    """Load what this machine can use, by AUDIOGEN_KERNELS. A library that is there and does not load is an error."""
    mode = os.environ.get("AUDIOGEN_KERNELS", "auto")
    if mode not in MODES:
        raise UserError(f"AUDIOGEN_KERNELS={mode} must be one of {', '.join(MODES)}")
    if mode == "off":
        return
    import torch

    for part in ("cpu", "cuda") if torch.version.cuda else ("cpu",):  # without CUDA its library finds no symbols
        if part in _loaded or not build.sources(part):
            continue
        path = build.find(part)
        if path is None:
            if mode == "require" and (part == "cpu" or torch.cuda.is_available()):
                raise UserError(f"AUDIOGEN_KERNELS=require, but the {part} kernels have not been built: "
                                "python -m audiogen.ops.build")
            continue
        try:
            torch.ops.load_library(path)
        except OSError as reason:
            raise UserError(f"{path} does not load: {reason}. Build it again (python -m audiogen.ops.build after "
                            "deleting it) or set AUDIOGEN_KERNELS=off") from reason
        _loaded[part] = path


def loaded(part: str) -> Path | None:
    """The library of `part` ("cpu" or "cuda") that is loaded."""
    return _loaded.get(part)


def level() -> str | None:
    """The instructions that the CPU kernels use: "avx512", "avx2" or "portable"; None where they are not loaded."""
    return _cpu().audiogen_level().decode() if "cpu" in _loaded else None


def set_level(name: str) -> None:
    """Use these instructions from now on, for tests and measurements. ValueError: not loaded, or the CPU lacks them."""
    if "cpu" not in _loaded or not _cpu().audiogen_set_level(name.encode()):
        raise ValueError(f"no CPU kernels for {name} here")


def levels() -> list[str]:
    """The levels that this CPU can run, the best last."""
    if "cpu" not in _loaded:
        return []
    return [name for name in build.LEVELS if _cpu().audiogen_supports(name.encode())]


def state() -> str:
    """One line for people."""
    mode = os.environ.get("AUDIOGEN_KERNELS", "auto")
    if not _loaded:
        why = "AUDIOGEN_KERNELS=off" if mode == "off" else "python -m audiogen.ops.build makes native ones"
        return f"reference (plain PyTorch; {why})"
    return ", ".join(f"cpu {level()}" if part == "cpu" else part for part in _loaded)


def _cpu() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_loaded["cpu"]))
    library.audiogen_level.restype = ctypes.c_char_p
    return library
