"""The picture is a whole PNG with the sound where it belongs; no display, no global state, nothing half written."""

from __future__ import annotations

import sys

import matplotlib.image
import pytest
import torch

from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from audiogen.signal.picture import _frequency_ticks, save_spectrogram


def brightness(path) -> torch.Tensor:
    """-> (rows, columns): the picture's brightness, from its top on."""
    return torch.from_numpy(matplotlib.image.imread(path)[..., :3].mean(axis=-1))


def test_a_loud_corner_is_bright_at_the_lower_left(tmp_path):
    f = MelFormat()
    mel = torch.full((80, 200), -11.0)
    mel[:40, :100] = 0.0
    save_spectrogram(mel, tmp_path / "corner.png", format=f)
    picture = brightness(tmp_path / "corner.png")
    rows, columns = picture.shape

    def at(height: float, width: float) -> float:
        row, column = int((1 - height) * rows), int(width * columns)
        return picture[row - 5 : row + 5, column - 5 : column + 5].mean().item()

    assert at(0.35, 0.25) > at(0.8, 0.25) + 0.3 and at(0.35, 0.25) > at(0.35, 0.7) + 0.3


def test_audio_title_and_roll_are_drawn(tmp_path):
    audio = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    save_spectrogram(audio, tmp_path / "plain.png", format=MelFormat())
    title = "cello & $rain$ for 5 $ \u00fc"
    save_spectrogram(audio, tmp_path / "full.png", format=MelFormat(), title=title, roll=torch.ones(265, 31))
    assert brightness(tmp_path / "full.png").shape[0] > brightness(tmp_path / "plain.png").shape[0]
    assert {path.name for path in tmp_path.iterdir()} == {"plain.png", "full.png"}


@pytest.mark.parametrize("name", MEL_FORMATS)
def test_frequency_ticks_lie_at_the_bands_of_their_frequencies(name):
    f = MEL_FORMATS[name]
    bands, labels = _frequency_ticks(f)
    assert bands == sorted(set(bands)) and len(bands) >= 5
    hz = torch.tensor([float(label) for label in labels])
    tones = torch.cos(2 * torch.pi * hz[:, None] * torch.arange(8192) / f.sample_rate)
    from audiogen.signal.mel import MelSpectrogram

    loudest = MelSpectrogram(f)(0.5 * tones)[..., 8].argmax(dim=1)
    assert (loudest - torch.tensor(bands)).abs().max() <= 1


def test_a_silent_and_a_one_frame_clip_are_drawn(tmp_path):
    save_spectrogram(torch.full((80, 1), -11.5129), tmp_path / "one.png", format=MelFormat())
    save_spectrogram(torch.full((1, 80, 40), -11.5129), tmp_path / "silent.png", format=MelFormat())
    assert brightness(tmp_path / "one.png").numel() > 0


def test_a_mel_of_another_format_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"\(100, 20\).*80"):
        save_spectrogram(torch.zeros(100, 20), tmp_path / "wrong.png", format=MelFormat())
    assert not list(tmp_path.iterdir())


def test_pyplot_is_not_used(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    save_spectrogram(torch.zeros(80, 20), tmp_path / "mel.png", format=MelFormat())
    assert ("matplotlib.pyplot" in sys.modules) == before
