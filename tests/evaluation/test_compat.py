"""Published tools' ways: their preprocessing by hand, and the flaws that they are kept for."""

from __future__ import annotations

import pytest
import torch

from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from evaluation.compat import COMPAT, find_compat, infinity_with_replacement, kernel_distance_kadtk
from evaluation.frechet import frechet_distance
from evaluation.kernel_distance import kernel_distance
from evaluation.moments import Moments
from evaluation.preprocessing import Preprocessing


def normal(rows, dim, seed=0):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stereo(rate=16000):
    t = torch.arange(rate) / rate
    return Audio(torch.stack([0.5 * torch.sin(2 * torch.pi * 440 * t), 0.1 * torch.sin(2 * torch.pi * 880 * t)]), rate)


def test_channels_and_levels_by_hand():
    audio = stereo()
    mono = audio.samples.mean(0)
    assert torch.equal(Preprocessing()(audio, 16000), mono)
    assert torch.equal(Preprocessing(channels="left")(audio, 16000), audio.samples[0])
    google = Preprocessing(resampler="none", level="google")
    assert torch.allclose(google(audio, 8000), mono / mono.max())  # 16 kHz taken for 8 kHz
    quiet = Audio(0.01 * audio.samples, 16000)
    assert torch.allclose(google(quiet, 16000), 0.01 * mono / 0.1)
    rounded = Preprocessing(level="int16")(audio, 16000) * 32768
    assert torch.equal(rounded, rounded.round()) and (rounded / 32768 - mono).abs().max() < 5e-5


def test_both_resamplers_give_the_same_tone():
    tone = Audio(torch.sin(2 * torch.pi * 440 * torch.arange(44100) / 44100)[None], 44100)
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)
    for resampler in ("soxr", "kaiser"):
        made = Preprocessing(resampler=resampler)(tone, 16000)
        assert made.shape == (16000,) and (made - expected)[500:-500].abs().max() < 2e-3


def test_every_way_has_a_name_of_its_own():
    ways = [str(Preprocessing(c, r, level)) for c in ("mean", "left") for r in ("soxr", "kaiser", "none")
            for level in ("as is", "google", "int16")]
    assert len(set(ways)) == 18
    with pytest.raises(UserError, match="resampler"):
        Preprocessing(resampler="sox")


def test_drawing_with_replacement_keeps_the_bias():
    reference = Moments.of(normal(20000, 16))
    published = [infinity_with_replacement(reference, normal(1000, 16, 1 + s)) for s in range(6)]
    plain = [frechet_distance(normal(20000, 16), normal(1000, 16, 1 + s)) for s in range(6)]
    assert sum(published) / 6 == pytest.approx(sum(plain) / 6, rel=0.35)  # nothing is taken away
    with pytest.raises(UserError, match="from 500 rows"):
        infinity_with_replacement(reference, normal(400, 16))


def test_the_evaluated_sets_bandwidth_forgives_a_worse_set():
    x, y = normal(300, 64), 3 * normal(300, 64, 1)
    width = torch.nn.functional.pdist(y).median().item()
    assert kernel_distance_kadtk(x, y) == pytest.approx(kernel_distance(x, y, bandwidth=width), abs=2e-3)
    assert kernel_distance_kadtk(x, y) < 0.2 * kernel_distance(x, y)


def test_presets_are_found_by_name():
    assert set(COMPAT) == {"google", "gudgud96", "fadtk", "kadtk"}
    with pytest.raises(UserError, match="did you mean 'fadtk'"):
        find_compat("fadtkk")
