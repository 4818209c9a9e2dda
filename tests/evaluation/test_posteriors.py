"""Inception score and KL in cases that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from audiogen.core.errors import UserError
from evaluation.posteriors import estimate_inception_score, inception_score, kl_divergence
from evaluation.score import score
from evaluation.summary import Summary


def test_sure_and_diverse_scores_the_number_of_classes_and_anything_else_scores_1():
    assert inception_score(torch.eye(5).repeat(4, 1)) == pytest.approx(5.0)
    assert inception_score(torch.eye(5)[:1].repeat(9, 1)) == pytest.approx(1.0)  # sure, but always the same
    assert inception_score(torch.full((9, 5), 0.2)) == pytest.approx(1.0)  # never sure


def test_the_direction_of_kl_is_named():
    x, y = (torch.tensor([logits]).softmax(1) for logits in ([2.0, 0.0, 0.0], [0.0, 1.0, 3.0]))
    forward = kl_divergence(x, y)
    assert forward.item() == pytest.approx(float((x * (x / y).log()).sum()), abs=1e-4)
    backward = kl_divergence(x, y, direction="generated||reference")
    assert (round(forward.item(), 2), round(backward.item(), 2)) == (2.08, 1.63)  # two tools, two numbers
    assert kl_divergence(x, x).item() == pytest.approx(0, abs=1e-5)


def test_the_interval_surrounds_the_score():
    draws = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)).mul(2).softmax(1)
    estimate = estimate_inception_score(draws, [str(i) for i in range(200)])
    assert estimate.low < estimate.value < estimate.high and estimate.value == inception_score(draws)
    halves = abs(inception_score(draws[:100]) - inception_score(draws[100:]))
    assert estimate.se > 0.1 * halves


@pytest.mark.parametrize("bad", [torch.ones(3, 2), torch.tensor([[1.5, -0.5]]), torch.tensor([[math.nan, 1.0]]),
                                 torch.zeros(0, 3)])
def test_what_is_no_distribution_is_refused(bad):
    with pytest.raises(UserError, match="class probabilities"):
        inception_score(bad)


def test_unpaired_sets_and_unknown_directions_are_refused():
    x = torch.full((2, 2), 0.5)
    with pytest.raises(UserError, match="pairs"):
        kl_divergence(x, x[:1])
    with pytest.raises(UserError, match="direction"):
        kl_divergence(x, x, direction="both")


# ------------------------------------------------------------------ as metrics of `evaluate`


def tagged(shift: float, names: str = "abcdef", suffix: str = "wav") -> Summary:
    made = Summary.none(4, {"embedder": "made up"})
    for index, name in enumerate(names):
        rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(index))
        rows[:, index % 4] += shift
        made.add(f"{suffix} {name}", rows, path=f"{name}.{suffix}")
    return made


def test_a_tagger_gives_inception_score_and_kl_of_clips_of_the_same_name():
    weight = torch.randn(5, 4, generator=torch.Generator().manual_seed(9))
    x, y = tagged(0.0), tagged(3.0, names="abcdx", suffix="flac")  # x has no partner
    found = score(x, y, metrics=("inception", "kl"), logits=lambda features: features @ weight.T)
    sides = [torch.softmax(torch.stack([clip.mean for clip in side.clips]).double() @ weight.T.double(), 1)
             for side in (x, y)]
    expected = (sides[0][:4] * (sides[0][:4] / sides[1][:4]).log()).sum(1).mean()
    assert found["scores"]["kl"]["value"] == pytest.approx(float(expected), rel=1e-3)  # 1e-6 is added below the log
    assert found["scores"]["kl"]["n_generated"] == 4
    assert found["scores"]["inception"]["value"] == pytest.approx(inception_score(sides[1]), rel=1e-5)
    assert score(x, x, metrics=("kl",), logits=lambda f: f @ weight.T)["scores"]["kl"]["value"] < 1e-4


def test_no_tagger_no_posteriors_and_a_warning_only_where_they_were_asked_for():
    x, y = tagged(0.0), tagged(1.0, suffix="flac")
    quiet = score(x, y)
    assert not {"kl", "inception"} & quiet["scores"].keys() and not any("classes" in w for w in quiet["warnings"])
    assert any("classes" in w for w in score(x, y, metrics=("kl",))["warnings"])
    apart = tagged(1.0, names="uvw", suffix="flac")
    assert any("same name" in w for w in score(x, apart, metrics=("kl",), logits=lambda f: f)["warnings"])
