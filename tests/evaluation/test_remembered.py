"""Estimates come back exactly, and only where clips, embedder, metric and code are the same."""

from __future__ import annotations

import dataclasses

import torch

from evaluation import remembered
from evaluation import score as scoring
from evaluation.cache import EmbeddingCache
from evaluation.score import score
from evaluation.summary import Summary


def summary(indices, shift=0.0, **made_by):
    made = Summary.none(4, {"embedder": "toy", **made_by})
    for index in indices:
        rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(index)) + shift
        made.add(f"{index:04d}", rows, path=f"{index}.wav", seconds=1.5)
    return made


def test_the_same_summaries_are_scored_once_and_give_the_same_numbers(tmp_path, monkeypatch):
    a, b = summary(range(100)), summary(range(200, 300), 0.3)
    with EmbeddingCache(tmp_path / "cache.sqlite") as store:
        fresh = score(a, b, store=store)
    assert fresh == score(a, b)
    again, original = [], scoring._attempt
    monkeypatch.setattr(scoring, "_attempt", lambda *job: again.append(job[1]) or original(*job))
    with EmbeddingCache(tmp_path / "cache.sqlite") as store:
        assert score(summary(range(100)), summary(range(200, 300), 0.3), store=store) == fresh
    assert set(again) <= {*scoring.OF_CLASSES}  # which this embedder has no classes for: a reason is not kept


def test_whatever_a_number_depends_on_changes_its_key(monkeypatch):
    base = summary(range(8))
    moved = summary(range(8))
    moved.moments.parts[0] = dataclasses.replace(moved.moments.parts[0], scatter=moved.moments.parts[0].scatter + 1e-12)
    renamed = summary(range(8))
    renamed.clips[0] = dataclasses.replace(renamed.clips[0], path="another.wav")  # pairs are found by name
    prints = [remembered.fingerprint(s) for s in (base, moved, renamed, summary(range(9)), summary(range(8), 1e-6),
                                                  summary(range(8), weights="other"))]
    assert len(set(prints)) == len(prints) and remembered.fingerprint(summary(range(8))) == prints[0]
    keys = {remembered.key(name, *sides) for name in ("kernel", "mauve") for sides in (("a", "b"), ("b", "a"))}
    monkeypatch.setattr(remembered, "code", lambda: "newer")
    assert len(keys | {remembered.key("kernel", "a", "b")}) == 5
