"""Summaries add up in any order, come back from files exactly, and refuse what cannot be compared."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiogen.core.errors import UserError
from evaluation.score import score
from evaluation.summary import ROWS, Summary, merged

MADE_BY = {"embedder": "toy", "sample_rate": 16000}


def clip(index: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(index)) + shift


def summary(indices, shift=0.0, **made_by) -> Summary:
    made = Summary.none(4, MADE_BY | made_by)
    for index in indices:
        made.add(f"{index:04d}", clip(index, shift), path=f"{index}.wav", seconds=1.5)
    return made


def test_shards_merged_in_any_order_score_as_the_whole():
    reference, whole = summary(range(60)), summary(range(100, 180), 0.5)
    shards = [summary(range(100 + start, 180, 3), 0.5) for start in range(3)]
    expected = score(reference, whole)
    for order in ((0, 1, 2), (2, 0, 1)):
        total = merged([shards[i] for i in order])
        assert total.counts == whole.counts
        found = score(reference, total)
        assert found["scores"].keys() == expected["scores"].keys() and len(expected["scores"]) >= 8
        for name in expected["scores"]:
            assert found["scores"][name]["value"] == pytest.approx(expected["scores"][name]["value"], abs=1e-9), name
            assert found["scores"][name]["se"] == pytest.approx(expected["scores"][name]["se"], abs=1e-9), name


def test_a_saved_summary_comes_back_exactly(tmp_path):
    made = summary(range(20))
    made.rejects = [{"path": "ü.wav", "reason": "silent"}]
    made.save(tmp_path / "set.npz")
    again = Summary.load(tmp_path / "set.npz")
    assert (again.made_by, again.counts, again.rejects) == (made.made_by, made.counts, made.rejects)
    for a, b in zip(again.moments.parts, made.moments.parts, strict=True):
        assert a.n == b.n and torch.equal(a.mean, b.mean) and torch.equal(a.scatter.triu(), b.scatter.triu())
    sample = made.sample.cut()
    assert torch.equal(again.sample.rows, sample.rows) and again.sample.clips.tolist() == sample.clips.tolist()
    assert [(c.digest, c.path, c.seconds, c.windows) for c in again.clips] == [
        (c.digest, c.path, c.seconds, c.windows) for c in made.clips]
    other = summary(range(50, 90), 1.0)
    assert score(again, other) == score(made, other)


def test_the_sample_is_bounded_and_does_not_depend_on_the_order():
    rng = torch.Generator().manual_seed(0)
    clips = [(f"{i:03d}", torch.randn(200, 2, generator=rng)) for i in range(80)]  # 16 000 windows
    forward, backward = (Summary.none(2, MADE_BY) for _ in range(2))
    for digest, rows in clips:
        forward.add(digest, rows)
    for digest, rows in reversed(clips):
        backward.add(digest, rows)
    a, b = forward.sample.cut(), backward.sample.cut()
    assert len(a.rows) == ROWS and np.array_equal(a.keys, b.keys) and torch.equal(a.rows, b.rows)
    assert len(forward.sample.rows) <= 2 * ROWS
    assert len(set(a.clips.tolist())) == 80  # of every clip its share


def test_two_halves_share_no_clip_and_make_the_whole():
    made = summary(range(40))
    halves = [made.half(which) for which in (0, 1)]
    names = [{c.digest for c in half.clips} for half in halves]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 40
    assert {*halves[0].sample.clips.tolist()} == names[0]
    assert sum(half.moments.total().n for half in halves) == made.moments.total().n


def test_sets_made_in_different_ways_are_not_compared():
    with pytest.raises(UserError, match="sample_rate 16000 and 22050"):
        score(summary(range(10)), summary(range(10), sample_rate=22050))
    with pytest.raises(UserError, match="different ways"):
        summary(range(10)).merge(summary(range(10), embedder="other"))


def test_a_file_that_is_no_summary_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", header=np.array([{"format": 1}], dtype=object))
    for name in ("text", "other", "pickle"):
        with pytest.raises(UserError, match=f"{name}.npz is no summary"):
            Summary.load(tmp_path / f"{name}.npz")
    with pytest.raises(UserError, match="no summary at"):
        Summary.load(tmp_path / "none.npz")


def test_metrics_can_be_chosen_and_what_few_clips_do_not_allow_is_said():
    reference = summary(range(60))
    some = score(reference, summary(range(60, 90)), metrics=("kernel", "coverage"))
    assert list(some["scores"]) == ["kernel", "coverage"]
    with pytest.raises(UserError, match="did you mean 'kernel'"):
        score(reference, reference, metrics=("kernle",))
    few = score(reference, summary([200]))
    assert "fad_inf" not in few["scores"] and few["scores"]["frechet"]["se"] is None
    assert any("too few to extrapolate" in warning for warning in few["warnings"])


def test_every_distance_has_its_floor():
    found = score(summary(range(100)), summary(range(200, 300), 0.3))
    assert found["floor"].keys() == found["scores"].keys() >= {"frechet", "fad_inf", "kernel", "coverage"}
    assert abs(found["floor"]["fad_inf"]["value"]) < found["scores"]["fad_inf"]["value"]
