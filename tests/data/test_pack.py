"""Shards are a pure function of manifest and settings, hold what was packed, and go on where they were stopped."""

from __future__ import annotations

import io
import json
import multiprocessing
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from data.packing import RATE, pack_slowly, sounds

from audiogen.core.checkpoint import save_checkpoint
from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat
from audiogen.data import pack as pack_module
from audiogen.data.manifest import Manifest
from audiogen.data.pack import PackSettings, pack
from audiogen.data.segments import read_segment
from audiogen.data.shard_store import ShardStore, read_index
from audiogen.data.shards import verify
from audiogen.generators.autoencoder import Autoencoder, AutoencoderConfig
from audiogen.signal.mel import MelSpectrogram

MEL = MelFormat()
SMALL = PackSettings("audio", piece=1.0, shard_mb=0.06)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*")) if path.is_file()}


def samples(folder: Path) -> list:
    index = read_index(str(folder))
    store = ShardStore(str(folder), cache=None, cache_gb=1, open_limit=99)
    return [sample for shard in index.shards for sample in store.open(shard)]


def test_every_stretch_of_every_file_is_packed_once(tmp_path):
    manifest = sounds(tmp_path)
    packed = pack(manifest, tmp_path / "shards", SMALL, workers=1)
    found = sorted((about["path"], about["start"], about["seconds"])
                   for about in (sample.about() for sample in samples(tmp_path / "shards")))
    # What is left of 2.3 s is packed; less than a quarter of a second would not be.
    wanted = [("0.flac", 0.0, 1.0), ("0.flac", 1.0, 1.0), ("0.flac", 2.0, 0.3), ("1.flac", 0.0, 1.0),
              ("2.flac", 0.0, 0.6), ("3.flac", 0.0, 1.0), ("3.flac", 1.0, 0.7)]
    assert [(path, start) for path, start, _ in found] == [(path, start) for path, start, _ in wanted]
    np.testing.assert_allclose([length for *_, length in found], [length for *_, length in wanted], atol=1e-4)
    assert packed.index.seconds == pytest.approx(5.6, abs=1e-3) and len(packed.index.shards) > 2
    assert packed.index.styles == {"train": {"cello": 4, "rain": 3}} and packed.index.played == ("cello",)


def test_audio_comes_back_to_half_a_step_of_16_bits(tmp_path):
    manifest = sounds(tmp_path)
    pack(manifest, tmp_path / "shards", SMALL, workers=1)
    for sample in samples(tmp_path / "shards"):
        about = sample.about()
        found, rate = soundfile.read(io.BytesIO(sample.content("flac")))
        wanted = read_segment(tmp_path / about["path"], round(about["start"] * RATE), len(found), RATE)
        assert rate == RATE
        np.testing.assert_allclose(found, wanted, atol=1.01 / 32768)


def test_mels_come_back_to_the_rounding_of_float16(tmp_path):
    manifest = sounds(tmp_path)
    pack(manifest, tmp_path / "shards", replace(SMALL, what="mel"), workers=1)
    for sample in samples(tmp_path / "shards"):
        about = sample.about()
        audio = read_segment(tmp_path / about["path"], round(about["start"] * RATE), round(about["seconds"] * RATE),
                             RATE)
        audio = np.pad(audio, (0, -len(audio) % MEL.hop_length))
        wanted = MelSpectrogram(MEL)(torch.from_numpy(audio)[None])[0]
        assert float((torch.from_numpy(sample.array("mel.npy").astype(np.float32)) - wanted).abs().max()) <= 0.004


def test_latents_are_the_autoencoder_s(tmp_path):
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(widths=(8, 8), latent_dim=4)).eval()
    save_checkpoint(tmp_path / "model", model, room="generator")
    manifest = sounds(tmp_path, (0.6,))
    settings = PackSettings("latent", piece=1.0, checkpoint=tmp_path / "model")
    index = pack(manifest, tmp_path / "latents", settings, workers=1).index
    pack(manifest, tmp_path / "mels", PackSettings("mel", piece=1.0), workers=1)
    mel = torch.from_numpy(samples(tmp_path / "mels")[0].array("mel.npy").astype(np.float32))
    found = samples(tmp_path / "latents")[0].array("latent.npy").astype(np.float32)
    with torch.inference_mode():
        wanted = model.encode(mel[None])[0].numpy()
    assert (index.rows, index.frames_per_step) == (4, model.config.rate) and len(index.checkpoint) == 12
    np.testing.assert_allclose(found, wanted, atol=0.01)  # of values about 1; the mels were rounded


def test_notes_are_those_of_the_piece(tmp_path):
    pack(sounds(tmp_path), tmp_path / "shards", SMALL, workers=1)
    notes = {(about["path"], about["start"]): about["notes"]
             for about in (sample.about() for sample in samples(tmp_path / "shards"))}
    np.testing.assert_allclose(notes["0.flac", 0.0], [(0.1, 0.5, 60, 90), (0.9, 0.7, 64, 70)], atol=1e-3)
    np.testing.assert_allclose(notes["0.flac", 1.0], [(-0.1, 0.7, 64, 70), (0.5, 0.2, 67, 50)], atol=1e-3)
    assert notes["0.flac", 2.0].shape == (0, 4) and notes["1.flac", 0.0] is None


def test_any_number_of_processes_writes_the_same_bytes(tmp_path):
    manifest = sounds(tmp_path)
    for workers in (1, 3):
        pack(manifest, tmp_path / str(workers), replace(SMALL, what="mel"), workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "3") != {}


def test_the_order_of_the_manifest_does_not_matter(tmp_path):
    manifest = sounds(tmp_path)
    pack(manifest, tmp_path / "a", SMALL, workers=1)
    pack(Manifest(manifest.entries[::-1], manifest.root), tmp_path / "b", SMALL, workers=1)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(tmp_path):
    manifest = sounds(tmp_path)
    context = multiprocessing.get_context("forkserver" if sys.platform.startswith("linux") else "spawn")
    child = context.Process(target=pack_slowly, args=(manifest, tmp_path / "killed", SMALL))
    child.start()
    patience = time.monotonic() + 60
    while not list((tmp_path / "killed").glob("train-000001.tar")) and time.monotonic() < patience:
        time.sleep(0.02)
    child.kill()
    child.join()
    assert not (tmp_path / "killed" / "index.json").exists()
    made = pack(manifest, tmp_path / "killed", SMALL, workers=1).made
    whole = pack(manifest, tmp_path / "whole", SMALL, workers=1)
    assert 0 < made < whole.made == len(whole.index.shards)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not list((tmp_path / "killed").glob(".*.part*"))


def test_what_is_damaged_is_found_and_made_again(tmp_path):
    manifest, folder = sounds(tmp_path), tmp_path / "shards"
    index = pack(manifest, folder, SMALL, workers=1).index
    before = contents(folder)
    assert list(verify(folder, index)) == []
    first, second, third = (folder / shard.name for shard in index.shards[:3])
    flipped = bytearray(first.read_bytes())
    flipped[5000] ^= 1
    first.write_bytes(flipped)
    second.write_bytes(second.read_bytes()[:-512])
    third.unlink()
    lines = list(verify(folder, index))
    assert [line.partition(" ")[0] for line in lines] == [first.name, second.name, third.name]
    assert "checksum" in lines[0] and "bytes" in lines[1] and "missing" in lines[2]
    assert pack(manifest, folder, SMALL, workers=1).made == 3
    assert contents(folder) == before


def test_a_folder_of_other_files_or_settings_is_left_alone(tmp_path):
    manifest = sounds(tmp_path)
    pack(manifest, tmp_path / "shards", SMALL, workers=1)
    before = contents(tmp_path / "shards")
    with pytest.raises(UserError, match="other files or settings"):
        pack(manifest, tmp_path / "shards", replace(SMALL, piece=2.0), workers=1)
    assert contents(tmp_path / "shards") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "backup.tar").write_bytes(b"mine")
    with pytest.raises(UserError, match="did not write"):
        pack(manifest, tmp_path / "mine", SMALL, workers=1)


def test_unreadable_files_are_named_and_too_many_of_them_stop_it(tmp_path):
    manifest = sounds(tmp_path)
    (tmp_path / "1.flac").write_bytes(b"no sound")
    (tmp_path / "0.mid").write_bytes(b"no notes")
    with pytest.raises(UserError, match="2 of 4 files"):
        pack(manifest, tmp_path / "shards", SMALL, workers=1)
    assert not (tmp_path / "shards" / "index.json").exists()
    packed = pack(manifest, tmp_path / "shards", SMALL, workers=1, max_skip=0.5)
    assert {path for path, _ in packed.rejects} == {"0.flac", "1.flac"}
    assert {sample.about()["path"] for sample in samples(tmp_path / "shards")} == {"2.flac", "3.flac"}


def test_copies_are_not_packed_and_splits_are_apart(tmp_path):
    manifest = sounds(tmp_path)
    entries = [replace(manifest.entries[0], split="valid"), manifest.entries[1],
               replace(manifest.entries[2], duplicate_of="1.flac"), manifest.entries[3]]
    index = pack(Manifest(tuple(entries), tmp_path), tmp_path / "shards", SMALL, workers=1).index
    store = ShardStore(str(tmp_path / "shards"), cache=None, cache_gb=1, open_limit=1)
    paths = {split: {sample.about()["path"] for shard in index.of(split) for sample in store.open(shard)}
             for split in ("train", "valid")}
    assert paths == {"train": {"1.flac", "3.flac"}, "valid": {"0.flac"}}
    with pytest.raises(UserError, match="no split 'test'; they hold train, valid"):
        index.of("test")


def test_a_worker_that_dies_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr(pack_module, "parallel", lambda function, tasks, **more: ["crashed" for _ in tasks])
    with pytest.raises(UserError, match="train-000000 could not be made"):
        pack(sounds(tmp_path), tmp_path / "shards", SMALL)


@pytest.mark.parametrize("fields, said", [
    (dict(what="video"), "choose audio, mel, latent"), (dict(what="latent"), "need the autoencoder"),
    (dict(what="mel", checkpoint=Path("x")), "is for --what latent"), (dict(piece=0.1), "choose 0.5 to 3600"),
    (dict(piece=float("nan")), "choose 0.5 to 3600"), (dict(shard_mb=0.0), "--shard-mb 0.0"),
])
def test_settings_that_cannot_be_are_refused(fields, said):
    with pytest.raises(UserError, match=said):
        PackSettings(**fields)


def test_the_index_is_plain_json(tmp_path):
    pack(sounds(tmp_path), tmp_path / "shards", SMALL, workers=1)
    values = json.loads((tmp_path / "shards" / "index.json").read_text())
    assert values["mel_hash"] == MEL.hash() and values["what"] == "audio"
