"""A vocoder learns from packed audio as from a folder, and refuses what is no audio."""

from __future__ import annotations

import json

import pytest
from data.packing import sounds

from audiogen.cli import main
from audiogen.core.checkpoint import load_checkpoint
from audiogen.data.pack import PackSettings, pack


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("shards")
    manifest = sounds(place, (1.2, 1.0, 1.1))
    for what in ("audio", "mel"):
        pack(manifest, place / what, PackSettings(what, piece=1.0), workers=1)
    return place


def words(folder, what, run, *more):
    return ["train", "vocoder", "--preset", "vocos", "--model.channels", "16", "--model.layers", "1",
            "--data.shards", str(folder / what), "--data.frames", "24", "--train.run", str(run), "--train.steps", "3",
            "--train.batch-size", "2", "--train.threads", "1", "--demos", "1", "--scored", "1", *more]


def test_three_steps_from_shards_and_their_scores(folder, tmp_path):
    assert main(words(folder, "audio", tmp_path / "run")) == 0
    scores = json.loads((tmp_path / "run" / "model" / "scores.json").read_text())
    assert scores["step"] == 3 and scores["copy_synthesis"]["clips"] == 1
    assert load_checkpoint(tmp_path / "run" / "model").labels["minutes"] == pytest.approx(3.3 / 60, abs=0.1)


@pytest.mark.parametrize("what, more, said", [
    ("mel", (), "vocoders need audio: pack with --what audio"),
    ("audio", ("--data.folder", "x"), "choose what to train on before you pack it"),
    ("audio", ("--data.open-only",), "choose what to train on before you pack it"),
])
def test_what_does_not_fit_is_one_clear_line(folder, tmp_path, capsys, what, more, said):
    assert main(words(folder, what, tmp_path / "run", *more)) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
