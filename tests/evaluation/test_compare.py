"""Differences between two sets: sharper in pairs, right about what is real, and said in one table."""

from __future__ import annotations

import json

import pytest
import torch

from audiogen.cli import main
from audiogen.core.audio import Audio
from evaluation.compare import difference
from evaluation.estimate import GROUPS, groups_of
from evaluation.moments import GroupedMoments, Moments


def normal(rows, dim, seed):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grouped(seed, clips=200, change=lambda x: x):
    """`clips` clips of 4 rows; a group at a time, which is many times faster than clip by clip, and the same."""
    sets, group = GroupedMoments(3), groups_of([str(index) for index in range(clips)])
    rows = change(normal(4 * clips, 3, seed))
    sets.parts = [Moments.of(rows[(group == g).repeat_interleave(4)]) for g in range(GROUPS)]
    sets.clips = torch.bincount(group, minlength=GROUPS).tolist()
    return sets


def test_the_interval_of_the_difference_covers_the_truth():
    # a: N(0, 1.2²), b: N(0, 1.5²), reference N(0, 1), 3 dimensions: 3 · (0.2² - 0.5²) = -0.63
    hits = 0
    for seed in range(24):
        e = difference(grouped(3 * seed), grouped(3 * seed + 1, change=lambda x: 1.2 * x),
                       grouped(3 * seed + 2, change=lambda x: 1.5 * x), paired=False)
        hits += e.low <= -0.63 <= e.high
    assert hits >= 19  # 95 % of 24 is 22.8, standard deviation 1.1


def test_pairs_are_sharper_than_independent_sets():
    reference, a = grouped(1), grouped(2)
    b = grouped(2, change=lambda x: 1.02 * x)  # the same clips, each a little worse
    paired, free = (difference(reference, a, b, paired=pairs) for pairs in (True, False))
    assert paired.value == free.value and paired.se < 0.5 * free.se


def test_no_difference_is_called_none():
    calls = [difference(grouped(9), grouped(10 + 2 * s), grouped(11 + 2 * s), paired=False) for s in range(12)]
    assert sum(e.low <= 0 <= e.high for e in calls) >= 9


@pytest.fixture
def folders(tmp_path):
    rng = torch.Generator().manual_seed(0)
    for index in range(12):
        clip = torch.sin(torch.arange(24000) * (0.05 + 0.01 * index)) * 0.3
        noise = torch.randn(24000, generator=rng)
        for name, amount in (("real", 0.001), ("a", 0.002), ("b", 0.1)):
            Audio((clip + amount * noise)[None], 16000).save(tmp_path / name / f"{index}.wav")
    return tmp_path


def test_the_verb_says_which_is_nearer(folders, capsys, monkeypatch):
    monkeypatch.setenv("AUDIOGEN_CACHE", str(folders / "cache"))
    words = ["compare", str(folders / "a"), str(folders / "b"), "--reference", str(folders / "real")]
    assert main([*words, "-o", str(folders / "out.json")]) == 0
    assert "pairs" in capsys.readouterr().out
    (row,) = json.loads((folders / "out.json").read_text())["embedders"]
    assert row["difference"] == pytest.approx(row["a"] - row["b"]) and row["difference"] < 0
    assert row["verdict"] == "A is nearer to the reference"


def test_shards_merged_give_the_scores_of_the_folder(folders, capsys, monkeypatch):
    monkeypatch.setenv("AUDIOGEN_CACHE", str(folders / "cache"))
    real, parts = str(folders / "real"), [str(folders / f"part-{i}.npz") for i in (1, 2, 3)]
    for i, part in enumerate(parts, 1):
        assert main(["embed", real, "--shard", f"{i}/3", "-o", part]) == 0
    assert main(["merge", *reversed(parts), "-o", str(folders / "all.npz")]) == 0
    values = []
    for reference in (str(folders / "all.npz"), real):
        out = folders / "scores.json"
        assert main(["evaluate", reference, str(folders / "b"), "--no-anchors", "-o", str(out)]) == 0
        values.append(json.loads(out.read_text())["embedders"][0]["scores"]["frechet"])
    assert values[0]["value"] == pytest.approx(values[1]["value"], abs=1e-9)
    lines = (folders / "scores.clips.csv").read_text().splitlines()
    assert len(lines) == 13 and "frechet_melstats" in lines[0] and "loudness_lufs" in lines[0]


@pytest.mark.parametrize("shard", ["0/3", "4/3", "x", "1"])
def test_a_shard_that_does_not_exist_is_refused(tmp_path, capsys, shard):
    assert main(["embed", str(tmp_path), "--shard", shard, "-o", str(tmp_path / "x.npz")]) == 2
    assert "--shard" in capsys.readouterr().err
