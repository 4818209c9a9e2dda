"""Both cases on any machine: a fake torchaudio whose compiled library loads or does not; then the real package."""

from __future__ import annotations

import importlib
import sys
import textwrap

import pytest
import torch

from audiogen.core.errors import UserError
from audiogen.signal import torchaudio_parts as place


@pytest.fixture
def fake_torchaudio(tmp_path, monkeypatch):
    """Write a package named torchaudio whose `_extension` runs the given line; the real one comes back afterwards."""
    real = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "torchaudio"}

    def write(extension: str, functional: str = "") -> None:
        package = tmp_path / "torchaudio"
        (package / "_extension").mkdir(parents=True)
        (package / "__init__.py").write_text("from . import _extension\nfrom . import functional\n")
        (package / "_extension" / "__init__.py").write_text(textwrap.dedent(extension))
        (package / "functional.py").write_text(
            "from torchaudio._extension import _IS_TORCHAUDIO_EXT_AVAILABLE, fail_if_no_align\n" + functional
        )

    place._forget()
    place.torchaudio_parts.cache_clear()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield write
    place._forget()
    place.torchaudio_parts.cache_clear()
    sys.modules.update(real)
    importlib.invalidate_caches()


LOADS = "_IS_TORCHAUDIO_EXT_AVAILABLE = True\ndef fail_if_no_align(f): return f\n"
DOES_NOT_LOAD = "raise OSError('libc10_cuda.so: cannot open shared object file')\n"


def test_a_library_that_loads_is_left_alone(fake_torchaudio):
    fake_torchaudio(LOADS)
    assert place.has_extension()
    assert sys.modules["torchaudio._extension"].__file__


def test_a_library_that_does_not_load_is_stood_in_for(fake_torchaudio):
    fake_torchaudio(DOES_NOT_LOAD, "@fail_if_no_align\ndef align(): return 1\n")
    torchaudio = place.torchaudio_parts()
    assert not place.has_extension() and not torchaudio.functional._IS_TORCHAUDIO_EXT_AVAILABLE
    with pytest.raises(RuntimeError, match="align needs torchaudio's compiled library"):
        torchaudio.functional.align()
    assert place.torchaudio_parts() is torchaudio


def test_any_other_error_is_not_hidden(fake_torchaudio):
    fake_torchaudio("raise ImportError('something else')\n")
    with pytest.raises(ImportError, match="something else"):
        place.torchaudio_parts()


def test_a_package_that_fails_both_ways_gives_both_reasons_and_leaves_nothing_behind(fake_torchaudio):
    fake_torchaudio(DOES_NOT_LOAD, "raise OSError('broken as well')\n")
    with pytest.raises(UserError, match="libc10_cuda.*broken as well"):
        place.torchaudio_parts()
    assert "torchaudio" not in sys.modules and "torchaudio._extension" not in sys.modules


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    place.torchaudio_parts.cache_clear()
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(UserError, match="pip install torchaudio"):
        place.torchaudio_parts()
    place.torchaudio_parts.cache_clear()


def test_the_real_package_computes_what_we_use():
    torchaudio = place.torchaudio_parts()
    impulse = torch.zeros(1, 8)
    impulse[0, 0] = 1.0
    decay = torchaudio.functional.lfilter(impulse, torch.tensor([1.0, -0.5]), torch.tensor([1.0, 0.0]), clamp=False)
    torch.testing.assert_close(decay[0], 0.5 ** torch.arange(8.0))
    assert torchaudio.functional.resample(torch.ones(1, 300), 3, 2).shape == (1, 200)
    assert torchaudio.transforms.MelSpectrogram(16000, n_mels=20)(torch.zeros(1, 4000)).shape[1] == 20
