"""Copies against originals: matched by name, averaged with an interval, bad ones listed."""

from __future__ import annotations

import json
import math
import statistics

import numpy as np
import pytest
import torch

from audiogen.cli import main
from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from evaluation import paired
from evaluation.dnsmos import WINDOW, speech_windows
from evaluation.paired import evaluate_pairs, mean_of


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Originals at 16 kHz and copies that are quieter in a known way; pitch is left out, for its second a clip."""
    monkeypatch.setattr(paired, "score_pair", lambda real, made, rate, speech=False: {
        "si_sdr": float(10 * torch.log10(real.square().sum() / (real - made).square().sum().clamp(min=1e-12))),
        "f0_rmse": math.nan if float(real[0]) == 0 else 3.0})
    for index in range(7):
        noise = 0.1 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(index))
        noise[:, 0] = 0.0 if index == 3 else 0.01
        Audio(noise, 16000).save(tmp_path / "real" / f"take {index}.wav")
        if index < 6:
            Audio(noise * (1 - 10 ** (-(index + 1) / 2)), 16000).save(tmp_path / "copies" / f"take {index}.flac")
    return tmp_path


def test_the_means_are_those_of_the_pairs(folders):
    result = evaluate_pairs(folders / "real", folders / "copies")
    assert result["pairs"] == 6 and result["originals_without_copy"] == 1
    values = [line["si_sdr"] for line in result["clips"]]
    assert values[:3] == pytest.approx([10.0, 20.0, 30.0], abs=0.1)  # the copy lacks 10 ** (-n / 2) of the clip
    row = result["scores"]["si_sdr"]
    assert row["value"] == pytest.approx(statistics.mean(values)) and row["n"] == 6
    low, high = row["interval_95"]
    assert low < row["value"] < high
    pitch = result["scores"]["f0_rmse"]  # one pair has no voiced frame: null in its line, and not counted
    assert pitch["value"] == 3.0 and pitch["n"] == 5 and result["clips"][3]["f0_rmse"] is None
    json.dumps(result, allow_nan=False)


def test_the_interval_is_the_usual_one_where_every_pair_is_its_own_group(monkeypatch):
    values = [1.0, 2.0, 4.0, 7.0]
    lines = [{"name": str(i), "mcd": v} for i, v in enumerate(values)]
    monkeypatch.setattr(paired, "groups_of", lambda names: torch.arange(len(names)))
    assert mean_of("mcd", lines)["se"] == pytest.approx(statistics.stdev(values) / 2)


def test_a_copy_without_original_or_with_two_is_an_error(folders):
    with pytest.raises(UserError, match="1 clips of .* no original .*take 6"):
        evaluate_pairs(folders / "copies", folders / "real")
    Audio(torch.ones(1, 4000), 16000).save(folders / "copies" / "take 1.wav")
    with pytest.raises(UserError, match="the same name"):
        evaluate_pairs(folders / "real", folders / "copies")


def test_a_broken_copy_is_listed_and_never_replaced(folders):
    (folders / "copies" / "take 2.flac").write_bytes(b"no audio")
    with pytest.raises(UserError, match="1 of 6 pairs .*--max-skip.*take 2.flac"):
        evaluate_pairs(folders / "real", folders / "copies")
    result = evaluate_pairs(folders / "real", folders / "copies", max_rejects=0.5)
    assert result["pairs"] == 5 and [r["path"] for r in result["rejected"]] == ["take 2"]


def test_the_command_prints_and_writes_pairs(folders, capsys):
    out = folders / "pairs.json"
    words = [str(folders / "real"), str(folders / "copies"), "--paired"]
    assert main(["evaluate", *words, "-o", str(out)]) == 0
    assert json.loads(out.read_text())["pairs"] == 6 and "si_sdr" in capsys.readouterr().out
    assert main(["evaluate", *words, "--html", "page.html"]) == 2
    assert main(["evaluate", *words[:2], "--speech"]) == 2


def test_speech_is_judged_in_windows_of_nine_seconds_a_second_apart():
    ramp = np.arange(16000 * 11, dtype=np.float32)
    windows = speech_windows(ramp)
    assert windows.shape == (2, WINDOW) and windows[1, 0] == 16000
    short = speech_windows(np.arange(16000 * 5, dtype=np.float32))  # 5 s, doubled to 10 s
    assert short.shape == (1, WINDOW) and short[0, 80000] == 0 and short[0, 79999] == 79999
    with pytest.raises(UserError, match="empty"):
        speech_windows(np.zeros(0, np.float32))
