"""Health of a clip, and tempo and key obeyed, on signals whose truth is known."""

from __future__ import annotations

import math

import pytest
import torch

from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from evaluation.adherence import Health, key_obeyed, listen, measure_health, tempo_obeyed

RATE = 22050


def sine(hertz=440.0, seconds=2.0, gain=0.5, rate=RATE):
    t = torch.arange(round(seconds * rate)) / rate
    return gain * torch.sin(2 * math.pi * hertz * t)


def test_a_plain_sine_is_healthy():
    health = measure_health(Audio(sine()[None], RATE))
    assert isinstance(health, Health)
    assert health.seconds == pytest.approx(2.0)
    assert health.true_peak_dbtp == pytest.approx(-6.02, abs=0.1)
    assert health.loudness_lufs == pytest.approx(-9.7, abs=0.7)  # -3 for the sine, -6 for its gain
    assert (health.clipped_share, health.silent_share) == (0.0, 0.0)
    assert abs(health.dc) < 1e-3


def test_clipping_offset_and_silence_are_measured_as_shares():
    loud = (2 * sine(100.0)).clamp(-1, 1)
    clipped = measure_health(Audio((1.5 * loud).clamp(-1, 1)[None], RATE)).clipped_share
    assert clipped == pytest.approx(1 - 2 / math.pi * math.asin(1 / 1.5), abs=0.02)  # the share of |sin| above 1 / 1.5
    assert measure_health(Audio(sine(gain=1.0)[None], RATE)).clipped_share < 0.1
    half = torch.cat([sine(), torch.zeros(2 * RATE)])
    assert measure_health(Audio(half[None], RATE)).silent_share == pytest.approx(0.5, abs=0.03)
    assert measure_health(Audio((sine(gain=0.1) - 0.25)[None], RATE)).dc == pytest.approx(-0.25, abs=1e-3)


def test_digital_silence_has_no_loudness_and_no_peak():
    health = measure_health(Audio(torch.zeros(1, RATE), RATE))
    assert (health.loudness_lufs, health.true_peak_dbtp, health.silent_share) == (None, None, 1.0)


def test_tempo_is_obeyed_within_four_percent_and_by_octaves_only_when_asked():
    assert tempo_obeyed(100, 103.9) and not tempo_obeyed(100, 104.1)
    assert not tempo_obeyed(100, 200) and tempo_obeyed(100, 200, octaves=True) and tempo_obeyed(100, 51, octaves=True)
    assert not tempo_obeyed(100, 150, octaves=True)
    assert not tempo_obeyed(100, None) and not tempo_obeyed(100, 0.0)


def test_keys_are_compared_by_sound_and_not_by_name():
    assert key_obeyed("C# minor", "Db minor") and not key_obeyed("C major", "A minor")
    assert key_obeyed("C major", "A minor", relative=True) and key_obeyed("A minor", "C major", relative=True)
    assert key_obeyed("F# minor", "A major", relative=True) and not key_obeyed("A minor", "E major", relative=True)
    assert not key_obeyed("C major", None)
    with pytest.raises(UserError, match="H major"):
        key_obeyed("H major", "C major")


def test_a_click_track_in_c_major_is_heard_as_such():
    beat = 60 / 100
    clip = torch.zeros(RATE * 8)
    for i, pitch in enumerate([60, 64, 67, 72, 65, 69, 67, 62, 71, 67, 60, 64, 67]):
        start = round(i * beat * RATE)
        tone = sine(440 * 2 ** ((pitch - 69) / 12), beat) * torch.exp(-torch.linspace(0, 6, round(beat * RATE)))
        clip[start : start + len(tone)] += tone[: len(clip) - start]
    heard = listen(Audio(clip[None], RATE))
    assert tempo_obeyed(100, heard.bpm, octaves=True)
    assert key_obeyed("C major", heard.key)
