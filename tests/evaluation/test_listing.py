"""A set is a folder or a manifest: the same files, their styles, one split of them; and what is wrong is said."""

from __future__ import annotations

import shutil

import pytest
import torch

from audiogen.cli import main
from audiogen.cli.sampled import is_checkpoint
from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from audiogen.data.manifest import Entry, read_manifest, write_manifest
from evaluation.listing import Listing
from evaluation.report import evaluate


def tone(style, index, seconds=1.2):
    time = torch.arange(round(seconds * 16000)) / 16000
    rng = torch.Generator().manual_seed(1000 * (style == "low") + index)
    pitch = {"low": 150.0, "high": 1500.0}[style] * (1 + 0.1 * torch.rand(1, generator=rng))
    return 0.3 * torch.sin(2 * torch.pi * pitch * time) + 0.01 * torch.randn(len(time), generator=rng)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Clips whose folders say nothing of their style; a manifest says it."""
    home = tmp_path_factory.mktemp("listing")
    entries = []
    for index in range(24):
        style = ("low", "high")[index % 2]
        Audio(tone(style, index)[None], 16000).save(home / "sounds" / f"{chr(97 + index)}.wav")
        made_by = {"audiogen": "1", "styles": {style: 1.0}}
        Audio(tone(style, 100 + index)[None], 16000, made_by).save(home / "made" / f"{chr(97 + index)}.wav")
        entries.append(Entry(f"{chr(97 + index)}.wav", 1.2, 16000, 1, styles=(style,), source=str(index),
                             split="test" if index < 16 else "train"))
    shutil.copy(home / "sounds" / "a.wav", home / "sounds" / "twin.wav")
    entries.append(Entry("twin.wav", 1.2, 16000, 1, styles=("low", "high"), duplicate_of="a.wav"))
    write_manifest(home / "manifest.jsonl", entries, root=home / "sounds")
    return home


def test_it_reads_what_the_manifests_own_reader_reads(home):
    manifest = read_manifest(home / "manifest.jsonl").select(duplicates=False)
    listing = Listing.of(home / "manifest.jsonl")
    assert list(listing.files) == [manifest.audio(entry) for entry in manifest]
    assert [(listing.styles[path],) for path in listing.files] == [entry.styles for entry in manifest]
    assert [listing.name(path) for path in listing.files] == [entry.path for entry in manifest]
    assert len(Listing.of(home / "manifest.jsonl", split="test").files) == 16
    assert len(Listing.of(home / "sounds").files) == 25  # a folder knows of no twins


def test_styles_of_a_manifest_train_the_probe_and_a_folder_of_no_styles_does_not(home):
    options = dict(metrics=("frechet",), anchors=False, cache=None, health=False)
    said = evaluate(home / "manifest.jsonl", home / "made", **options)["embedders"][0]["style"]
    assert said["styles"] == 2 and said["match"]["n"] == 24 and said["match"]["share"] > 0.9
    assert said["held_out"]["n"] == 24
    assert "style" not in evaluate(home / "sounds", home / "made", **options)["embedders"][0]
    shutil.copytree(home / "sounds", home / "with manifest")
    write_manifest(home / "with manifest" / "manifest.jsonl", read_manifest(home / "manifest.jsonl").entries,
                   root=home / "with manifest")
    again = evaluate(home / "with manifest", home / "made", **options)["embedders"][0]["style"]
    assert again["match"]["n"] == 24


def test_a_manifest_gives_the_numbers_of_its_folder(home):
    shutil.rmtree(home / "plain", ignore_errors=True)
    shutil.copytree(home / "sounds", home / "plain")
    (home / "plain" / "twin.wav").unlink()
    one, other = (evaluate(place, home / "made", metrics=("frechet", "kernel"), anchors=False, cache=None)
                  for place in (home / "manifest.jsonl", home / "plain"))
    assert one["embedders"][0]["scores"] == other["embedders"][0]["scores"]
    assert one["sets"]["reference"]["clips"] == 24


def test_what_is_no_manifest_is_said_in_one_line(home, tmp_path, capsys):
    (tmp_path / "cut.jsonl").write_text((home / "manifest.jsonl").read_text()[:-200])
    (tmp_path / "other.jsonl").write_text('{"text": "a caption"}\n')
    for place, options, said in ((tmp_path / "cut.jsonl", {}, "scan again"),
                                 (tmp_path / "other.jsonl", {}, "no manifest that audiogen scan wrote"),
                                 (tmp_path / "none.jsonl", {}, "no manifest at"),
                                 (home / "sounds", {"split": "test"}, "only a manifest"),
                                 (home / "manifest.jsonl", {"split": "valid"}, "it has test, train")):
        with pytest.raises(UserError, match=said):
            Listing.of(place, **options)
    assert main(["evaluate", str(home / "manifest.jsonl"), str(home / "made"), "--seconds", "3"]) == 2
    assert "--seconds belongs to a checkpoint" in capsys.readouterr().err


def test_a_checkpoint_is_told_from_a_folder_of_clips(home, tmp_path):
    assert not is_checkpoint(home / "made") and not is_checkpoint(home / "nowhere")
    (tmp_path / "generator").mkdir()
    (tmp_path / "generator" / "config.json").write_text("{}")
    assert is_checkpoint(tmp_path)
