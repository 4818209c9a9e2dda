"""The one place that imports torchaudio.

The torchaudio wheel on the package index carries a library compiled against CUDA torch, and beside a CPU-only torch
its import stops with an OSError (libc10_cuda is not there). All that audiogen uses of torchaudio is Python and works
without that library, so in this case the import is repeated with a stand-in for `torchaudio._extension`, the module
that loads it.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType

from audiogen.core.errors import UserError


@functools.lru_cache(maxsize=1)
def torchaudio_parts() -> ModuleType:
    """-> the torchaudio package. Raises `UserError` with the reason where it cannot be imported at all."""
    try:
        return importlib.import_module("torchaudio")
    except ModuleNotFoundError as reason:
        if reason.name != "torchaudio":
            raise
        raise UserError("torchaudio is not installed: run `pip install torchaudio`") from None
    except OSError as reason:  # torch raises it where a shared library does not load
        first_reason = reason
    _forget()
    sys.modules["torchaudio._extension"] = _no_extension()
    try:
        return importlib.import_module("torchaudio")
    except Exception as reason:
        _forget()
        raise UserError(
            f"torchaudio cannot be imported, neither with its compiled library ({first_reason}) nor without it "
            f"({reason}): install the torchaudio that belongs to your torch"
        ) from reason


def has_extension() -> bool:
    """Whether torchaudio's compiled library is loaded."""
    torchaudio_parts()
    return bool(sys.modules["torchaudio._extension"]._IS_TORCHAUDIO_EXT_AVAILABLE)


def _forget() -> None:
    """Remove what a broken import has left behind, so that the next one begins anew."""
    for name in [name for name in sys.modules if name == "torchaudio" or name.startswith("torchaudio.")]:
        del sys.modules[name]


def _no_extension() -> ModuleType:
    """What `torchaudio._extension` defines where no compiled library was built."""

    def fail_if_no_align(function):
        @functools.wraps(function)
        def fail(*args, **kwargs):
            raise RuntimeError(f"{function.__name__} needs torchaudio's compiled library, which does not load here")

        return fail

    module = ModuleType("torchaudio._extension")
    module.__path__ = []  # a package: torchaudio._extension.utils must fail as a missing module, not as an attribute
    module._IS_TORCHAUDIO_EXT_AVAILABLE = False
    module._IS_ALIGN_AVAILABLE = False
    module._load_lib = lambda name: False
    module._check_cuda_version = lambda: None
    module.fail_if_no_align = fail_if_no_align
    return module
