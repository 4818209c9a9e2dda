"""A generator learns from shards as from a manifest, and refuses the shards that it cannot learn from."""

from __future__ import annotations

import json

import pytest
from data.packing import sounds

from audiogen.cli import main
from audiogen.core.checkpoint import load_checkpoint
from audiogen.core.mel_format import MelFormat
from audiogen.data.pack import PackSettings, pack
from audiogen.data.packed import PackedDataset
from audiogen.data.segments import collate
from audiogen.generators.task import measure_statistics
from audiogen.signal.mel import MelSpectrogram
from audiogen.training.fit import _Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("shards")
    manifest = sounds(place, (1.2, 1.0))
    for what in ("audio", "mel"):
        pack(manifest, place / what, PackSettings(what, piece=0.6), workers=1)
    return place


def words(folder, what, run, *more):
    return ["train", "generator", "--data.shards", str(folder / what), "--train.run", str(run), "--data.frames", "16",
            "--train.steps", "3", "--train.batch-size", "2", "--train.threads", "1", "--demo-prompts", "cello",
            "--train.log-every", "1", *more]


@pytest.mark.parametrize("what", ["audio", "mel"])
def test_three_steps_from_shards(folder, tmp_path, monkeypatch, what):
    seconds = []
    audio_seconds = _Run._audio_seconds
    monkeypatch.setattr(_Run, "_audio_seconds",
                        lambda run, batch: seconds.append(audio_seconds(run, batch)) or seconds[-1])
    monkeypatch.setattr(_Run, "_demo", lambda *arguments: None)
    small = ("--model.gated.width", "16", "--model.gated.depth", "2")
    assert main(words(folder, what, tmp_path / "run", *small)) == 0
    found = load_checkpoint(tmp_path / "run" / "model")
    assert found.labels["played"] == ["cello"] and found.labels["vocabulary"]["styles"] == ["cello", "rain"]
    assert json.loads((tmp_path / "run" / "model" / "scores.json").read_text())["step"] == 3
    assert set(seconds) == {2 * 16 * 256 / 22050}


def test_statistics_of_mels_are_those_of_their_audio(folder):
    audio, mel = (measure_statistics(PackedDataset(folder / what, frames=30), collate, MelSpectrogram(MelFormat()),
                                     samples=64) for what in ("audio", "mel"))
    for one, other in zip(audio, mel, strict=True):
        assert float((one - other).abs().mean()) < 0.1  # segments are mirrored at their ends, pieces at theirs


@pytest.mark.parametrize("what, more, said", [
    ("mel", ("--preset", "wavenet"), "wavenet needs audio: pack with --what audio"),
    ("mel", ("--preset", "enhancer"), "enhancer needs audio: pack with --what audio"),
    ("mel", ("--data.styles", "cello"), "choose before you pack"), ("nothing", (), "no shards in"),
])
def test_shards_that_do_not_fit_are_one_clear_line(folder, tmp_path, capsys, what, more, said):
    assert main(words(folder, what, tmp_path / "run", *more)) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_latents_are_refused(folder, tmp_path, capsys):
    (tmp_path / "latent").mkdir()
    values = json.loads((folder / "mel" / "index.json").read_text()) | {"what": "latent"}
    (tmp_path / "latent" / "index.json").write_text(json.dumps(values))
    assert main(words(tmp_path, "latent", tmp_path / "run")) == 2
    assert "holds latents" in capsys.readouterr().err
