from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import torch

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from audiogen.core.rng import SampleRng
from audiogen.signal.mel import MelSpectrogram, mel_filterbank
from vocoders.griffin_lim import GriffinLim, GriffinLimConfig, MelInverse, ShortTime, griffin_lim, peak_phase, unit


def _tone(frames: int = 40, hz: float = 440.0, rate: int = 22050, hop: int = 256) -> torch.Tensor:
    t = torch.arange(frames * hop) / rate
    return (0.3 * torch.sin(2 * math.pi * hz * t) + 0.1 * torch.sin(2 * math.pi * 3.1 * hz * t))[None]


@pytest.mark.parametrize("name", ["audiogen_22k", "tacotron2_22k", "parallel_wavegan_24k", "r9y9_2018_22k"])
@pytest.mark.parametrize("frames", [1, 2, 7, 33])
def test_every_number_of_frames_gives_exactly_as_many_hops(name: str, frames: int) -> None:
    format = MEL_FORMATS[name]
    model = GriffinLim(GriffinLimConfig(mel=format, iterations=2))
    audio = model(torch.full((2, format.n_mels, frames), -3.0))
    assert audio.shape == (2, 1, frames * format.hop_length)
    assert audio.isfinite().all()


def test_a_spectrum_comes_back_as_the_signal_it_was_taken_from() -> None:
    short_time = ShortTime(MelFormat())
    audio = torch.randn(2, 20 * 256, generator=torch.Generator().manual_seed(0))
    again = short_time.audio(short_time.transform(short_time.extend(audio)))
    assert (again - audio).abs().max() < 1e-5


def test_more_iterations_come_nearer_to_the_spectrogram_asked_for() -> None:
    audio = _tone() + 0.02 * torch.randn(1, 40 * 256, generator=torch.Generator().manual_seed(1))
    short_time = ShortTime(MelFormat())
    magnitude = short_time.transform(short_time.extend(audio)).abs()
    phase = unit(2 * math.pi * SampleRng(0).rand(*magnitude.shape[1:]))

    def distance(iterations: int) -> float:
        spectrum = griffin_lim(magnitude, phase, short_time, iterations=iterations)
        found = short_time.transform(short_time.overlap(spectrum)).abs()
        return float((found - magnitude).norm() / magnitude.norm())

    none, few, many = distance(0), distance(8), distance(64)
    assert many < 0.6 * few < 0.6 * none


def test_momentum_is_faster_than_the_plain_algorithm() -> None:
    front_end, mel = MelSpectrogram(MelFormat()), MelSpectrogram(MelFormat())(_tone())
    distances = []
    for momentum in (0.0, 0.99):
        model = GriffinLim(GriffinLimConfig(iterations=32, momentum=momentum))
        distances.append(float((front_end(model(mel)) - mel).abs().mean()))
    assert distances[1] < distances[0]


def test_the_mel_of_the_clip_comes_near_the_mel_asked_for() -> None:
    front_end, noise = MelSpectrogram(MelFormat()), torch.randn(1, 60 * 256, generator=torch.Generator().manual_seed(2))
    mel = front_end(_tone(60) + 0.02 * noise)
    distances = [
        float((front_end(GriffinLim(GriffinLimConfig(iterations=n))(mel)) - mel).abs().mean()) for n in (0, 64)
    ]
    assert distances[1] < 0.12 < 0.4 < distances[0]


def test_exact_inverse_is_as_near_as_the_non_negative_least_squares_solution() -> None:
    format = MelFormat()
    mel = MelSpectrogram(format)(_tone(6))[..., 2:4]
    ours = MelInverse(format)(mel, exact=True)[0].T.numpy()
    target = mel[0].exp().numpy()
    filterbank = mel_filterbank(format).numpy()
    theirs = np.stack([scipy.optimize.nnls(filterbank, column)[0] for column in target.T], 1)
    clipped = MelInverse(format)(mel)[0].T.numpy()
    distance = [float(np.linalg.norm(filterbank @ x - target)) for x in (ours, theirs, clipped)]
    assert (ours >= 0).all()
    assert distance[0] < 0.5 * distance[2]
    assert distance[0] < distance[1] + 0.02 * float(np.linalg.norm(target))


def test_peak_phases_turn_with_the_frequency_of_a_tone_between_two_bins() -> None:
    short_time, hz = ShortTime(MelFormat()), 1007.0
    t = torch.arange(30 * 256) / 22050
    spectrum = short_time.transform(short_time.extend(torch.sin(2 * math.pi * hz * t)[None]))
    phase = peak_phase(spectrum.abs(), torch.zeros(1, 513), 256)
    peak = round(hz * 1024 / 22050)
    turned = (phase[0, 6:25, peak] / phase[0, 5:24, peak]).angle()
    expected = unit(torch.tensor(2 * math.pi * hz * 256 / 22050)).angle()
    assert (unit(turned) - unit(expected)).abs().max() < 0.1


def test_same_rng_same_clip_and_a_batch_changes_nothing() -> None:
    model = GriffinLim(GriffinLimConfig(iterations=4, inverse="pinv"))
    mel = MelSpectrogram(MelFormat())(torch.cat([_tone(20), _tone(20, hz=300.0)]))
    both = model(mel, rng=SampleRng(3, ids=[7, 8]))
    assert torch.equal(both, model(mel, rng=SampleRng(3, ids=[7, 8])))
    assert (both[1:] - model(mel[1:], rng=SampleRng(3, ids=[8]))).abs().max() < 1e-5
    assert (both - model(mel, rng=SampleRng(4, ids=[7, 8]))).abs().max() > 1e-3


def test_values_out_of_range_are_named() -> None:
    with pytest.raises(UserError, match="nnls"):
        GriffinLimConfig(inverse="svd")
    with pytest.raises(UserError, match="iterations=-1"):
        GriffinLimConfig(iterations=-1)


@pytest.mark.parametrize("name", ["audiogen_22k", "tacotron2_22k", "r9y9_2018_22k", "diffwave_22k"])
def test_in_every_kind_of_format_the_clip_comes_back_as_loud_as_it_was_and_where_it_was(name: str) -> None:
    format = MEL_FORMATS[name]
    clip = _tone()
    clip[:, :2000] = 0
    made = GriffinLim(GriffinLimConfig(mel=format, iterations=16))(MelSpectrogram(format)(clip))[0, 0]
    made = made[format.lead : format.lead + clip.shape[1]]
    assert 0.6 < float(made[3000:].square().mean() / clip[0, 3000:].square().mean()) < 1.5
    assert made[:1000].abs().max() < 0.1 * made[3000:].abs().max()


def test_a_mel_that_is_none_and_a_chunk_are_refused() -> None:
    model = GriffinLim(GriffinLimConfig(iterations=0))
    with pytest.raises(UserError, match="Griffin-Lim.*80 mel bands.*has 81"):
        model(torch.zeros(1, 81, 3))
    with pytest.raises(ValueError, match="whole clips"):
        model(torch.zeros(1, 80, 3), offset=2)
