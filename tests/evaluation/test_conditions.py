"""Conditions for continuous integration: what they mean, and what is refused."""

from __future__ import annotations

import pytest

from audiogen.core.errors import UserError
from evaluation.conditions import Condition

ROW = {"value": 2.0, "se": 0.5, "interval_95": [1.0, 3.5], "n_reference": 9, "n_generated": 9}
RESULT = {"embedders": [
    {"embedder": "melstats", "scores": {"fad_inf": ROW, "frechet": ROW, "coverage": ROW | {"value": 0.4}}},
    {"embedder": "yamnet", "scores": {"frechet": ROW, "fad_inf": ROW | {"value": 9.0, "interval_95": None}}},
]}


@pytest.mark.parametrize("text, lines", [
    ("melstats.fad_inf.hi > 3.0", 1), ("melstats.fad_inf.hi > 3.5", 0), ("melstats.fad_inf.hi >= 3.5", 1),
    ("fad_inf > 1", 2), ("frechet.value < 1", 0),
    ("fad_inf.value>5", 1), ("melstats.coverage < 0.5", 1), ("melstats.fad_inf.se < 1e-1", 0),
    ("yamnet.fad_inf <= 8", 0),
])
def test_what_a_condition_means(text, lines):
    assert len(Condition.parse(text).met(RESULT)) == lines


@pytest.mark.parametrize("text, says", [
    ("fad_inf", "form"), ("fad_inf.hi > high", "form"), ("fad_fin > 3", "did you mean 'fad_inf'"),
    ("fad_inf.high > 3", "did you mean 'hi'"), ("fad_inf > 1e", "no number"), ("__import__('os') > 3", "form"),
])
def test_what_is_no_condition_is_refused_before_anything_is_computed(text, says):
    with pytest.raises(UserError, match=says):
        Condition.parse(text)


def test_what_the_result_does_not_hold_is_an_error_and_not_a_pass():
    for text in ("yamnet.fad_inf.hi > 3", "coverage > 0.1", "musicnn.fad_inf > 3"):
        with pytest.raises(UserError):
            Condition.parse(text).met(RESULT)
