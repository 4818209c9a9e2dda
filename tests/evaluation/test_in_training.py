"""Scoring demo clips against saved statistics."""

from __future__ import annotations

import pytest
import torch

from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from evaluation.cache import EmbeddingCache
from evaluation.clips import check_clips
from evaluation.embedders.base import load_embedder
from evaluation.in_training import demo_judge
from evaluation.report import summarise


def write(folder, noise, count, seed):
    rng = torch.Generator().manual_seed(seed)
    for index in range(count):
        tone = 0.3 * torch.sin(torch.arange(32000) * (0.05 + 0.02 * index))
        Audio((tone + noise * torch.randn(32000, generator=rng))[None], 16000).save(folder / f"{index}.wav")
    return folder


def test_worse_demos_score_worse(tmp_path):
    with EmbeddingCache(":memory:") as store:
        clips = check_clips(write(tmp_path / "real", 0.001, 12, 0))
        summarise(clips, load_embedder("melstats"), store, pad=True).save(tmp_path / "real.npz")
    judge = demo_judge(tmp_path / "real.npz")
    scores = [judge(write(tmp_path / name, noise, 4, 1)) for name, noise in (("good", 0.001), ("bad", 0.1))]
    assert scores[0] < scores[1]


def test_a_wrong_file_is_an_error_before_training(tmp_path):
    (tmp_path / "x.npz").write_text("no summary")
    with pytest.raises(UserError, match="no summary"):
        demo_judge(tmp_path / "x.npz")
