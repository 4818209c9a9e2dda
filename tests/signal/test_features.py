"""Tempo and key of music made here, so that they are known; silence and noise get no confidence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiogen.signal.features import (
    MAJOR_NAMES,
    RATE,
    chroma,
    estimate_key,
    estimate_tempo,
    key_number,
    mono,
    onset_strength,
)

SCALES = {"major": (0, 4, 7, 0, 5, 9, 7, 11, 2, 0, 4, 7), "minor": (0, 3, 7, 0, 5, 8, 7, 10, 2, 0, 3, 7)}


def tone(pitch: float, seconds: float) -> np.ndarray:
    """A decaying tone with six harmonics."""
    time = np.arange(int(seconds * RATE)) / RATE
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    wave = sum(np.sin(2 * np.pi * h * frequency * time) / h**1.5 for h in range(1, 7))
    return (0.2 * wave * np.exp(-3 * time) * np.minimum(1, time / 0.005)).astype(np.float32)


def melody(pitches, seconds: float) -> np.ndarray:
    """The tones one after the other, each beginning exactly `seconds` after the one before."""
    out = np.zeros(int(len(pitches) * seconds * RATE) + 1, np.float32)
    for index, pitch in enumerate(pitches):
        start = round(index * seconds * RATE)
        note = tone(pitch, seconds)[: len(out) - start]
        out[start : start + len(note)] += note
    return out


@pytest.mark.parametrize("bpm", [84, 133, 158])
def test_the_tempo_of_a_melody_is_found_to_1_percent(bpm):
    scale = (60, 64, 67, 65, 62, 69, 67, 72) * 2
    found, confidence = estimate_tempo(melody(scale, 60 / bpm), RATE)
    assert found == pytest.approx(bpm, rel=0.01)
    assert confidence > 0.3


@pytest.mark.parametrize(
    "tonic, mode, detuned", [(3, "major", 0.0), (6, "major", 0.35), (9, "minor", 0.0), (1, "minor", -0.3)]
)
def test_the_key_of_a_melody_is_found_in_any_tuning(tonic, mode, detuned):
    pitches = [60 + (tonic + step) % 12 + detuned for step in SCALES[mode]]
    key, confidence = estimate_key(melody(pitches, 0.25), RATE)
    assert key_number(key) == tonic + 12 * (mode == "minor")
    assert 0.2 < confidence <= 1.0


def test_stereo_torch_at_another_rate_is_the_same_music():
    samples = melody([60, 64, 67, 72] * 3, 0.5)
    time = np.arange(2 * len(samples) - 1) / 2
    stereo = torch.from_numpy(np.stack([np.interp(time, np.arange(len(samples)), samples)] * 2).astype(np.float32))
    np.testing.assert_allclose(mono(stereo, 2 * RATE)[100:9000], samples[100:9000], atol=0.02)
    assert estimate_tempo(stereo, 2 * RATE)[0] == pytest.approx(estimate_tempo(samples, RATE)[0], rel=0.01)
    assert estimate_key(stereo, 2 * RATE)[0] == estimate_key(samples, RATE)[0]


@pytest.mark.parametrize("time", [0, 100, 3 * RATE])
def test_silence_has_neither_tempo_nor_key(time):
    assert estimate_tempo(np.zeros(time, np.float32), RATE) == (0.0, 0.0)
    assert estimate_key(np.zeros(time, np.float32), RATE) == ("", 0.0)


def test_noise_is_given_less_confidence_than_music():
    noise = 0.1 * np.random.default_rng(0).standard_normal(6 * RATE).astype(np.float32)
    music = melody([60, 64, 67, 65] * 3, 0.5)
    assert estimate_tempo(noise, RATE)[1] < estimate_tempo(music, RATE)[1]
    assert estimate_key(noise, RATE)[1] < estimate_key(music, RATE)[1]


@pytest.mark.parametrize("pitch", [48, 57, 66, 71])
def test_chroma_is_highest_at_the_pitch_class(pitch):
    assert chroma(tone(pitch, 1.0), RATE).mean(axis=1).argmax() == pitch % 12


def test_onset_strength_peaks_where_tones_begin():
    strength = onset_strength(melody([60, 67, 64], 0.5), RATE, hop_length=128)
    for start in (0.5, 1.0):
        at = round(start * RATE / 128)
        assert abs(strength[at - 20 : at + 20].argmax() - 20) <= 4


def test_keys_have_numbers_whatever_their_spelling():
    assert [key_number(f"{name} major") for name in MAJOR_NAMES] == list(range(12))
    assert key_number("C# major") == key_number("Db major") == 1
    assert key_number("Bb minor") == key_number("A# minor") == 22
    for wrong in ("", "H major", "A", "A dorian"):
        with pytest.raises(ValueError, match="is not one like"):
            key_number(wrong)
