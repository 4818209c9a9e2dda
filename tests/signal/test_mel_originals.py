"""Every published front end against what its original code answered (tests/golden/mel_front_ends.npz).

The originals were run once as they are, on today's librosa and torch (keywords for librosa's functions, a complex
Fourier transform), on sounds made by formulas. Numbers only; the code stays theirs:

    hifigan      jik876/hifi-gan meldataset.py              tacotron2, nv_wavenet   NVIDIA/tacotron2 layers.py
    bigvgan      NVIDIA/BigVGAN meldataset.py               vocos      gemelo-ai/vocos feature_extractors.py
    melgan       descriptinc/melgan-neurips modules.py      parallel_wavegan   kan-bayashi/ParallelWaveGAN preprocess.py
    diffwave, wavegrad   lmnt-com, preprocess.py            r9y9       r9y9/wavenet_vocoder audio.py, at its head and at
                                                                       2092a64 (with lws 1.2.8)

Clips shorter than half a window are not compared: torch's originals refuse them, librosa's mirror them more than once.
Ours are as if silence followed (tests/signal/test_mel.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden.made_sounds import SOUNDS, made_sound

from audiogen.core.mel_format import MEL_FORMATS
from audiogen.signal.mel import MelSpectrogram

PUBLISHED = [name for name in MEL_FORMATS if name != "audiogen_22k"]


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[1] / "golden" / "mel_front_ends.npz", allow_pickle=False) as file:
        return dict(file)


def test_every_published_front_end_was_asked_for_every_sound(golden):
    assert set(golden) == {f"{name}.{sound}" for name in PUBLISHED for sound in SOUNDS}


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_front_end_is_its_original(golden, name, sound):
    f = MEL_FORMATS[name]
    theirs = golden[f"{name}.{sound}"]
    ours = MelSpectrogram(f)(made_sound(sound, f.sample_rate, f.n_fft)[None])[0]
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_sounds_tell_the_front_ends_apart(golden, name):
    """Else the test above could not fail: with any other format of the same shape something is 1e-3 off at least."""
    def shape(f):
        return f.n_fft, f.hop_length, f.n_mels, f.padding

    f = MEL_FORMATS[name]
    for other in PUBLISHED:
        g = MEL_FORMATS[other]
        if other == name or shape(f) != shape(g):
            continue
        sounds = [made_sound(sound, f.sample_rate, f.n_fft)[None] for sound in SOUNDS]
        theirs = [golden[f"{name}.{sound}"] for sound in SOUNDS]
        worst = max(np.abs(MelSpectrogram(g)(x)[0].numpy() - y).max() for x, y in zip(sounds, theirs, strict=True))
        assert worst > 1e-3, (name, other)


def test_lws_frames_render_back_to_where_the_clip_lies():
    """A click's energy lies in the frames that reach over it, counted from `lead` samples before the clip."""
    f = MEL_FORMATS["r9y9_2018_22k"]
    audio = torch.zeros(1, 5000)
    audio[0, 2000] = 1.0
    mel = MelSpectrogram(f)(audio)
    loud = (mel[0] > f.lowest).any(0).nonzero()[:, 0] * f.hop_length - f.lead  # where those frames begin in the clip
    assert mel.shape[-1] == f.frames(5000) == f.frames_to_cover(5000)
    assert loud.min() + f.n_fft > 2000 >= loud.max() and len(loud) == f.n_fft // f.hop_length
