"""What folders hold in real life: every odd file is scored or listed with its reason, and changes no other clip."""

from __future__ import annotations

import math
import os

import pytest
import soundfile
import torch

from audiogen.core.audio import Audio
from evaluation.report import evaluate

RATE = 16000


def tone(index, seconds=1.5, rate=RATE):
    time = torch.arange(round(seconds * rate)) / rate
    noise = 0.01 * torch.randn(len(time), generator=torch.Generator().manual_seed(index))
    return 0.3 * torch.sin(2 * torch.pi * (200 + 50 * index) * time) + noise


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    for index in range(8):
        Audio(tone(index)[None], RATE).save(folder / f"{index}.wav")
    return folder


def write_good(folder):
    for index in range(4):
        Audio(tone(20 + index)[None], RATE).save(folder / f"good {index}.wav")


def write_bad(folder):
    clip = tone(1).numpy()
    whole = folder / "good 0.wav"
    (folder / "corrupt.flac").write_bytes(b"fLaC" + bytes(range(256)) * 8)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "half a header.wav").write_bytes(whole.read_bytes()[:20])
    soundfile.write(folder / "one sample.wav", clip[:1], RATE)
    soundfile.write(folder / "silent.wav", 0 * clip, RATE)
    soundfile.write(folder / "too short.wav", clip[:4000], RATE)
    for name, value in (("nan", float("nan")), ("infinite", float("inf"))):
        odd = clip.copy()
        odd[100] = value
        soundfile.write(folder / f"{name}.wav", odd, RATE, subtype="FLOAT")
    return {"corrupt.flac": "cannot be read", "empty.wav": "cannot be read", "half a header.wav": "cannot be read",
            "one sample.wav": "less than one window", "silent.wav": "silent", "too short.wav": "less than one window",
            "nan.wav": "NaN", "infinite.wav": "NaN or infinite"}


def measure(real, made, **options):
    return evaluate(real, made, metrics=("frechet", "kernel"), anchors=False, cache=None, **options)


def test_each_bad_file_is_listed_with_its_reason_and_changes_nothing(real, tmp_path):
    write_good(tmp_path / "good")
    write_good(tmp_path / "bad")
    expected = write_bad(tmp_path / "bad")
    result = measure(real, tmp_path / "bad", max_rejects=1.0)
    reasons = {reject["path"]: reject["reason"] for reject in result["sets"]["generated"]["rejected"]}
    assert reasons.keys() == expected.keys()
    assert all(expected[name] in reasons[name] for name in expected), reasons
    clean = measure(real, tmp_path / "good")
    assert result["embedders"][0]["scores"] == clean["embedders"][0]["scores"]
    assert result["embedders"][0]["clips"] == clean["embedders"][0]["clips"]
    assert result["health"] == clean["health"] and result["sets"]["generated"]["clips"] == 4


def test_odd_files_that_hold_sound_are_scored(real, tmp_path):
    soundfile.write(tmp_path / "eight channels.wav", tone(1)[:, None].repeat(1, 8).numpy(), RATE)
    soundfile.write(tmp_path / "96 kHz.flac", tone(2, rate=96000).numpy(), 96000)
    soundfile.write(tmp_path / "over full scale.wav", (8 * tone(3)).numpy(), RATE, subtype="FLOAT")
    for name in ("naïve 音楽 🎵.wav", "--no-cache.wav", "a%20b;$(c)&'d'.wav", "UPPER.WAV", "dots.in.it.wav"):
        soundfile.write(tmp_path / name, tone(4).numpy(), RATE)
    (tmp_path / "folder.wav").mkdir()  # a folder of that name is no clip, but what lies in it is
    soundfile.write(tmp_path / "folder.wav" / "inside.ogg", tone(5).numpy(), RATE)
    (tmp_path / ".hidden.wav").write_bytes(b"of the system's")
    result = measure(real, tmp_path)
    assert not result["sets"]["generated"]["rejected"] and result["sets"]["generated"]["clips"] == 9
    assert len(result["embedders"][0]["clips"]) >= 5  # five of the nine are the same bytes
    loud = result["health"]["over full scale.wav"]
    assert loud["true_peak_dbtp"] == pytest.approx(20 * math.log10(8 * 0.3), abs=1.5)


def test_a_read_only_folder_is_enough(real, tmp_path):
    write_good(tmp_path / "made")
    before = {path: path.stat().st_mtime_ns for path in [tmp_path / "made", *(tmp_path / "made").iterdir()]}
    os.chmod(tmp_path / "made", 0o555)
    try:
        measure(real, tmp_path / "made")
        # As root a mode stops nobody, so that nothing is written there is looked for as well.
        assert {path: path.stat().st_mtime_ns for path in before} == before
        assert len(list((tmp_path / "made").iterdir())) == 4
    finally:
        os.chmod(tmp_path / "made", 0o755)
