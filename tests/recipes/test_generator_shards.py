"""A generator learns from shards as from a manifest, and refuses the shards that it cannot learn from."""

from __future__ import annotations

import json

import pytest
import torch
from data.packing import sounds

from audiogen.cli import main
from audiogen.core.checkpoint import load_checkpoint, save_checkpoint
from audiogen.core.mel_format import MelFormat
from audiogen.data.manifest import read_manifest, write_manifest
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
    write_manifest(place / "all.jsonl", manifest, root=place)
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
    monkeypatch.setattr(_Run, "_make_demos", lambda *arguments: None)
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


@pytest.fixture(scope="module")
def stage(folder):
    """An autoencoder trained for a step, and latents of its making."""
    small = ("--model.widths", "16", "24", "--model.latent-dim", "8")
    run = folder / "vae"
    assert main([*words(folder, "audio", run, "--preset", "vae", *small), "--train.steps", "1"]) == 0
    pack(read_manifest(folder / "all.jsonl"), folder / "latent",
         PackSettings("latent", piece=0.6, checkpoint=run / "model"), workers=1)
    return run / "model"


LATENT = ("--preset", "latent_diffusion", "--model.gated.width", "16", "--model.gated.depth", "2",
          "--model.gated.means")


def test_latent_diffusion_learns_from_latents(folder, stage, tmp_path, monkeypatch):
    seconds = []
    audio_seconds = _Run._audio_seconds
    monkeypatch.setattr(_Run, "_audio_seconds",
                        lambda run, batch: seconds.append(audio_seconds(run, batch)) or seconds[-1])
    assert main([*words(folder, "latent", tmp_path / "run", *LATENT), "--first", str(stage)]) == 0
    model, first = load_checkpoint(tmp_path / "run" / "model").model, load_checkpoint(stage).model
    assert torch.equal(model.mel_mean, first.mel_mean) and set(seconds) == {2 * 16 * 256 / 22050}
    dataset = PackedDataset(folder / "latent", frames=16, vocabulary=None)
    heard = PackedDataset(folder / "mel", frames=16)
    whole = first.encode(heard[3].mel[None])
    assert dataset[3].latents.shape == whole[0].shape and dataset[3].mel is None


@pytest.mark.parametrize("more, said", [
    ((), "learns from mels: pack with --what mel"),
    (LATENT, "name the autoencoder that made them by --first"),
    ((*LATENT, "--first", "other"), "made by another autoencoder"),
])
def test_latents_that_do_not_fit_are_one_clear_line(folder, stage, tmp_path, monkeypatch, capsys, more, said):
    monkeypatch.chdir(tmp_path)
    found = load_checkpoint(stage)
    with torch.no_grad():
        found.model.mel_mean += 1
    save_checkpoint(tmp_path / "other", found.model, room="generator", labels=found.labels)
    assert main(words(folder, "latent", tmp_path / "run", *more)) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
