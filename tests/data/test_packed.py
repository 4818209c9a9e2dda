"""Samples of shards: the right pieces in the right shape, each once an epoch, from disk, HTTP or elsewhere."""

from __future__ import annotations

import functools
import http.server
import io
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from data.packing import RATE, sounds
from torch.utils.data import DataLoader

from audiogen.conditioning.labels import StyleVocabulary
from audiogen.conditioning.piano_roll import piano_roll
from audiogen.conditioning.text import WordVectors
from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat
from audiogen.core.score import Score
from audiogen.data import shard_store
from audiogen.data.manifest import Manifest
from audiogen.data.pack import PackSettings, pack
from audiogen.data.packed import PackedDataset
from audiogen.data.pairs import style_vector
from audiogen.data.segments import collate
from audiogen.data.shard_store import read_index
from audiogen.pipeline import DEFAULT
from audiogen.training.config import TrainConfig
from audiogen.training.steps import StepSampler

MEL = MelFormat()
SETTINGS = PackSettings("mel", piece=0.5, shard_mb=0.03)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """12 pieces of half a second in several shards of mels, and the same as audio."""
    place = tmp_path_factory.mktemp("packed")
    manifest = sounds(place, (2.3, 1.0, 0.6, 2.0))
    pack(manifest, place / "mel", SETTINGS, workers=1)
    pack(manifest, place / "audio", replace(SETTINGS, what="audio"), workers=1)
    return place


@pytest.fixture(scope="module")
def vocabulary() -> StyleVocabulary:
    return StyleVocabulary(("cello", "rain"), WordVectors.load(DEFAULT / "words.safetensors"))


def pieces(dataset: PackedDataset) -> list[tuple[int, int]]:
    return [dataset.order.place(k) for k in range(len(dataset))]


def test_an_epoch_over_processes_accumulation_and_workers_is_every_piece_once(folder):
    dataset = PackedDataset(folder / "mel", frames=8, window=2)
    assert len(dataset) == 12 and len(dataset.shards) > 2
    for world in (1, 2, 3):
        config = TrainConfig(batch_size=12, accumulation=2, steps=1)
        ids = [k for rank in range(world) for batch in StepSampler(config, start=0, rank=rank, world=world)
               for k in batch]
        assert sorted(dataset.order.place(k) for k in ids) == sorted(set(pieces(dataset)))
        assert len(set(ids)) == 12


def test_workers_give_what_the_dataset_gives(folder, vocabulary):
    dataset = PackedDataset(folder / "audio", MEL, frames=8, vocabulary=vocabulary)
    batches = [list(range(first, first + 4)) for first in range(4, 16, 4)]  # from the middle on: no state is needed
    dataset[0]  # open shards are not sent along
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=2,
                        multiprocessing_context="spawn")
    for found, ids in zip(loader, batches, strict=True):
        wanted = collate([dataset[k] for k in ids])
        for one, other in [(found.audio, wanted.audio), (found.lengths, wanted.lengths), (found.ids, wanted.ids),
                           (found.condition.vector, wanted.condition.vector),
                           (found.condition.aligned, wanted.condition.aligned)]:
            assert torch.equal(one, other)
        assert found.prompts == wanted.prompts


def test_a_mel_batch_has_mels_and_no_audio(folder):
    dataset = PackedDataset(folder / "mel", MEL, frames=30)
    batch = collate([dataset[k] for k in range(12)])
    assert batch.mel.shape == (12, 80, 30) and batch.mel.dtype == torch.float32 and batch.audio.shape == (12, 1, 0)
    assert set(batch.lengths.tolist()) == {30, 26}  # of 0.5 s, and of the 0.3 s that one file ends with
    for mel, length in zip(batch.mel, batch.lengths.tolist(), strict=True):
        assert (mel[:, length:] == MEL.lowest).all() and (mel[:, :length] > MEL.lowest + 1).any()


def test_an_audio_batch_is_cut_from_its_pieces(folder):
    dataset = PackedDataset(folder / "audio", MEL, frames=30, seed=2)
    batch = collate([dataset[k] for k in range(12)])
    assert batch.mel is None and batch.audio.shape == (12, 1, 30 * 256)
    starts = set()
    for k in range(12):
        shard, piece = dataset.order.place(k)
        whole = soundfile.read(io.BytesIO(dataset.store.open(dataset.shards[shard])[piece].content("flac")),
                               dtype="float32")[0]
        cut = batch.audio[k, 0].numpy()
        time = min(len(whole), len(cut))
        fits = [at for at in range(len(whole) - time + 1) if np.array_equal(whole[at : at + time], cut[:time])]
        assert len(fits) == 1 and (cut[time:] == 0).all()
        starts.add(fits[0])
    assert len(starts) > 5


def test_the_condition_is_that_of_the_place(folder, vocabulary):
    dataset = PackedDataset(folder / "mel", MEL, frames=20, vocabulary=vocabulary)
    score, heard = Score.read(folder / "0.mid"), 0
    for k in range(12):
        shard, piece = dataset.order.place(k)
        about = dataset.store.open(dataset.shards[shard])[piece].about()
        found = dataset[k]
        assert torch.equal(found.condition.vector, style_vector(vocabulary, about["styles"]))
        if about["path"] != "0.flac":
            assert not found.condition.aligned.any()
            continue
        rolls = [piano_roll(score, 20, frame_rate=MEL.frame_rate, start=about["start"] + start / MEL.frame_rate)
                 for start in range(25)]
        assert min(float((roll - found.condition.aligned).abs().max()) for roll in rolls) < 1e-3
        heard += int(found.condition.aligned[:88].any())
    assert heard >= 3


def test_another_mel_format_is_refused(folder):
    with pytest.raises(UserError, match=r"different mel formats \(f_max 8000.0 against 11025.0\)"):
        PackedDataset(folder / "mel", MelFormat(f_max=8000.0), frames=8)


def test_what_is_not_there_is_said(folder, tmp_path):
    with pytest.raises(UserError, match="no shards in .*audiogen pack"):
        PackedDataset(tmp_path, frames=8)
    with pytest.raises(UserError, match="no split 'valid'"):
        PackedDataset(folder / "mel", frames=8, split="valid")


def copy(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.glob("[!.]*"):
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_missing_and_cut_shards_are_named(folder, tmp_path):
    place = copy(folder / "mel", tmp_path / "copy")
    dataset = PackedDataset(place, frames=8)
    name = dataset.shards[dataset.order.place(0)[0]].name
    (place / name).write_bytes((place / name).read_bytes()[:-512])
    with pytest.raises(UserError, match=f"{name} has .* bytes where the index says"):
        dataset[0]
    (place / name).unlink()
    with pytest.raises(UserError, match=f"no shard at .*{name}"):
        dataset[0]


# ------------------------------------------------------------------------- far away


class Handler(http.server.SimpleHTTPRequestHandler):
    asked: list[str] = []
    cut: set[str] = set()  # names that are sent by half, once

    def log_message(self, *arguments):
        pass

    def copyfile(self, source, outputfile):
        name = self.path.rpartition("/")[2]
        self.asked.append(name)
        if name in self.cut:
            self.cut.discard(name)
            outputfile.write(source.read()[:700])
        else:
            super().copyfile(source, outputfile)


@pytest.fixture
def server(folder, monkeypatch):
    monkeypatch.setattr(shard_store, "PAUSE", 0.01)
    monkeypatch.setattr(Handler, "asked", [])
    monkeypatch.setattr(Handler, "cut", set())
    place = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=place.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{place.server_address[1]}"
    place.shutdown()
    place.server_close()
    thread.join()


def settled() -> None:
    for thread in threading.enumerate():
        if getattr(thread, "_target", None) and "_quietly" in repr(thread._target):
            thread.join()


def test_http_gives_what_the_disk_gives_and_each_shard_is_fetched_once(folder, server, tmp_path):
    near, far = (PackedDataset(where, MEL, frames=8, window=2, cache=tmp_path)
                 for where in (folder / "mel", f"{server}/mel/"))
    second = PackedDataset(f"{server}/mel", MEL, frames=8, window=2, cache=tmp_path)  # another process of this machine
    for k in range(24):
        assert torch.equal(near[k].mel, far[k].mel) and torch.equal(far[k].mel, second[k].mel)
    settled()
    assert sorted(name for name in Handler.asked if name.endswith(".tar")) == sorted(s.name for s in near.shards)


def test_a_cut_download_is_tried_again(folder, server, tmp_path):
    Handler.cut = {shard.name for shard in read_index(str(folder / "mel")).shards}
    far = PackedDataset(f"{server}/mel", MEL, frames=8, cache=tmp_path)
    assert torch.equal(far[0].mel, PackedDataset(folder / "mel", MEL, frames=8)[0].mel)
    settled()


def test_other_content_than_the_index_says_is_refused_and_not_kept(folder, server, tmp_path):
    place = copy(folder / "mel", folder / "wrong")
    for path in place.glob("*.tar"):
        content = bytearray(path.read_bytes())
        content[3000] ^= 1
        path.write_bytes(content)
    far = PackedDataset(f"{server}/wrong", MEL, frames=8, cache=tmp_path)
    with pytest.raises(UserError, match="is not the shard that the index names"):
        far[0]
    settled()
    assert list(tmp_path.glob("*.tar")) == []


def test_a_server_without_them_is_named(server, tmp_path):
    with pytest.raises(UserError, match="nothing/index.json cannot be read .*404"):
        PackedDataset(f"{server}/nothing", frames=8, cache=tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        PackedDataset("http://127.0.0.1:9/x", frames=8, cache=tmp_path)
    with pytest.raises(UserError, match="nowhere://x/index.json"):
        PackedDataset("nowhere://x", frames=8, cache=tmp_path)


def test_fsspec_opens_other_addresses(folder, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in (folder / "mel").glob("[!.]*"):
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    far = PackedDataset("memory://bucket", MEL, frames=8, cache=tmp_path)
    assert torch.equal(far[3].mel, PackedDataset(folder / "mel", MEL, frames=8)[3].mel)
    settled()


def test_the_cache_keeps_to_its_limit_and_forgets_the_oldest(folder, server, tmp_path):
    shards = read_index(str(folder / "mel")).shards
    largest = max(shard.bytes for shard in shards)
    far = PackedDataset(f"{server}/mel", MEL, frames=8, window=1, cache=tmp_path, cache_gb=2.5 * largest / 1e9)
    for k in range(12):
        far[k]
        settled()
        assert sum(path.stat().st_size for path in tmp_path.glob("[!.]*.tar")) <= 2.5 * largest
    assert len(list(tmp_path.glob("[!.]*.tar"))) < len(shards)


@pytest.mark.filterwarnings("ignore")  # it leaves its files to be closed by chance
def test_webdataset_reads_our_shards(folder):
    import webdataset

    index = read_index(str(folder / "mel"))
    found = [sample for shard in index.shards
             for sample in webdataset.WebDataset(str(folder / "mel" / shard.name), shardshuffle=False).decode()]
    assert len(found) == 12 and all(sample["mel.npy"].shape[0] == 80 and "styles" in sample["json"] for sample in found)


def test_a_number_that_is_none_is_named_with_its_piece(folder, tmp_path):
    shutil.copytree(folder / "mel", tmp_path / "shards")
    dataset = PackedDataset(tmp_path / "shards", frames=8)
    shard, piece = dataset.order.place(5)
    path = tmp_path / "shards" / dataset.shards[shard].name
    offset, size = dataset.store.open(dataset.shards[shard])[piece].places["mel.npy"]
    content = bytearray(path.read_bytes())
    content[offset + 128 : offset + size] = np.full((size - 128) // 2, np.nan, np.float16).tobytes()
    path.write_bytes(content)
    dataset = PackedDataset(tmp_path / "shards", frames=8)
    where = dataset.store.open(dataset.shards[shard])[piece].where
    with pytest.raises(UserError, match=re.escape(f"{where} holds NaN")):
        dataset.__getitems__([k for k in range(12) if dataset.order.place(k) != (shard, piece)] + [5])


def test_hand_made_content_that_is_wrong_is_named(folder, tmp_path):
    manifest = Manifest(sounds(tmp_path, (0.5,)).entries, tmp_path)
    pack(manifest, tmp_path / "shards", SETTINGS, workers=1)
    path = tmp_path / "shards" / "train-000000.tar"
    content = path.read_bytes()
    assert RATE == MEL.sample_rate
    for old, new, said in [(b'"styles": ["cello"]', b'"styles": [123456]' + b" ", "json is damaged"),
                           (b'"notes": [[', b'"notes": ["[', "json is damaged"), (b"'<f2'", b"'|O'", "no mel")]:
        new = new[: len(old)].ljust(len(old))
        assert old in content
        path.write_bytes(content.replace(old, new))
        with pytest.raises(UserError, match=said):
            PackedDataset(tmp_path / "shards", MEL, frames=8)[0]
