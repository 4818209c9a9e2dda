"""Tunes with labels: the labels are true, and every piece depends on its seed and number alone."""

from __future__ import annotations

import csv
import json

import pytest

from audiogen.composers.chords import progression
from audiogen.composers.rhythms import Metre
from audiogen.core.errors import UserError
from audiogen.core.score import Score
from recipes.data_rules import DataRules


def test_the_labels_are_those_of_the_files(tmp_path, capsys):
    assert DataRules(tmp_path, pieces=4, seconds=8.0, styles=("waltz", "techno")).run() == 0
    lines = [json.loads(line) for line in (tmp_path / "tunes.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["style"] for line in lines] == ["waltz", "techno"] * 2
    for line in lines:
        score = Score.read(tmp_path / line["file"])
        assert (score.bpm, score.metre, score.key) == (line["bpm"], line["metre"], line["key"])
        assert len(score.notes) == line["notes"] and score.seconds == pytest.approx(line["seconds"], abs=0.01)
        assert set(score.instruments) == set(line["parts"].values())
        assert len(progression(line["chords"], Metre.named(line["metre"]))) == line["bars"]
    with open(tmp_path / "metadata.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["file"], row["label"]) for row in rows] == [(line["file"], line["style"]) for line in lines]
    assert "4 pieces" in capsys.readouterr().out


def test_a_stretch_made_alone_is_the_same(tmp_path):
    DataRules(tmp_path / "all", pieces=3, seconds=4.0, seed=5).run()
    DataRules(tmp_path / "last", pieces=1, first=2, seconds=4.0, seed=5).run()
    DataRules(tmp_path / "other", pieces=1, first=2, seconds=4.0, seed=6).run()
    files = {name: (tmp_path / name / "000002.mid").read_bytes() for name in ("all", "last", "other")}
    assert files["all"] == files["last"] != files["other"]


def test_splits_are_dealt_by_number():
    recipe = DataRules(None)
    piece = DataRules(None, seconds=2.0).piece(0)
    splits = [recipe.labels(number, piece)["split"] for number in range(40)]
    assert splits.count("valid") == splits.count("test") == 2


def test_unknown_styles_are_named(tmp_path):
    with pytest.raises(UserError, match="did you mean 'waltz'"):
        DataRules(tmp_path, styles=("walts",)).run()
    with pytest.raises(UserError, match="pieces=0"):
        DataRules(tmp_path, pieces=0).run()
