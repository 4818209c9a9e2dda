"""What all tests share: quiet libraries, one thread, no network, and the way to real data and weights."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Before torch, matplotlib and the hub client are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# A shell that starts the tests in the background has them, and all their children, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]


def _shared(name: str) -> Path:
    """A folder of the shared material: below $AUDIOGEN_SHARED, or of `shared` beside the checkout."""
    folder = Path(os.environ.get("AUDIOGEN_SHARED") or ROOT.parent / "shared") / name
    if not folder.is_dir():
        pytest.skip(f"no real {name} here: set AUDIOGEN_SHARED to a folder with {name}/ (or have ../shared/{name})")
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def librosa():
    """librosa as the product loads it: never by `import librosa`, which breaks when processes do it at once."""
    from audiogen.core.librosa_once import load_librosa

    return load_librosa()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real, labelled audio and scores; the test is skipped where they are not at hand."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Pretrained embedders; the test is skipped where they are not at hand."""
    return _shared("weights")
