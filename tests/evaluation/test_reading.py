"""A file is read once, on all cores, and gives the same numbers wherever it is read."""

from __future__ import annotations

import os

import numpy as np
import pytest
import soundfile
import torch

from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from evaluation import reading
from evaluation.cache import EmbeddingCache
from evaluation.clips import check_clips, embed_clips
from evaluation.embedders.base import load_embedder, parse_weights


@pytest.fixture
def folder(tmp_path):
    for index in range(6):
        noise = torch.randn(1, 20000, generator=torch.Generator().manual_seed(index))
        path = tmp_path / "clips" / f"{index}.wav"
        Audio(0.1 * noise, 16000, {"audiogen": "1", "seed": index}).save(path)
        os.utime(path, (1e9, 1e9))  # long ago: the time stamp can be trusted
    return tmp_path / "clips"


def gather(clips, store):
    return {digest: rows for digest, rows in embed_clips(clips, load_embedder("melstats"), store)}


def test_processes_give_the_bytes_that_one_process_gives(folder, tmp_path, monkeypatch):
    model = load_embedder("melstats")
    found = []
    for worth, name in ((1, "two.sqlite"), (1000, "one.sqlite")):
        monkeypatch.setattr(reading, "WORTH_A_PROCESS", worth)
        with EmbeddingCache(tmp_path / name) as store:
            clips = check_clips(folder, store=store, embedders=(model,), health=True, workers=2)
            found.append((clips.clips, clips.made_by, clips.health, gather(clips, store)))
    (*one, rows), (*other, others) = found
    assert one == other and rows.keys() == others.keys() and len(rows) == 6
    assert all(torch.equal(rows[digest], others[digest]) for digest in rows)


def test_a_file_is_read_once_and_a_known_one_never_again(folder, tmp_path, monkeypatch):
    reads = []
    original = reading.read_clip
    monkeypatch.setattr(reading, "read_clip", lambda path: reads.append(path.name) or original(path))
    model = load_embedder("melstats")
    with EmbeddingCache(tmp_path / "cache.sqlite") as store:
        first = check_clips(folder, store=store, embedders=(model,), health=True)
        before = gather(first, store)
        assert sorted(reads) == [f"{i}.wav" for i in range(6)]
    reads.clear()
    with EmbeddingCache(tmp_path / "cache.sqlite") as store:
        again = check_clips(folder, store=store, embedders=(model,), health=True)
        assert not reads and again == first
        assert all(torch.equal(rows, before[digest]) for digest, rows in gather(again, store).items())
        # A file that changes, and nothing else, is read again: also where its size stays.
        changed = folder / "2.wav"
        Audio(0.1 * torch.ones(1, 20000), 16000, {"audiogen": "1", "seed": 2}).save(changed)
        os.utime(changed, (1e9 + 1, 1e9 + 1))
        later = check_clips(folder, store=store, embedders=(model,), health=True)
        assert reads == ["2.wav"] and later.clips[changed] != first.clips[changed]


def test_a_file_that_was_written_just_now_is_not_trusted(tmp_path, monkeypatch):
    Audio(0.1 * torch.ones(1, 20000), 16000).save(tmp_path / "new.wav")
    with EmbeddingCache(":memory:") as store:
        one = check_clips(tmp_path, store=store)
        Audio(0.2 * torch.ones(1, 20000), 16000).save(tmp_path / "new.wav")  # the same size, perhaps the same tick
        assert check_clips(tmp_path, store=store).clips != one.clips


def test_a_clip_that_changes_under_way_is_an_error(folder):
    with EmbeddingCache(":memory:") as store:
        clips = check_clips(folder, store=store)
        Audio(0.1 * torch.ones(1, 20000), 16000).save(folder / "3.wav")
        with pytest.raises(UserError, match="was changed while"):
            gather(clips, store)


def test_weights_are_named_for_one_embedder_or_for_all(tmp_path):
    (tmp_path / "y.tflite").write_bytes(b"not it")
    assert parse_weights([]) is None
    assert parse_weights([str(tmp_path), f"yamnet={tmp_path / 'y.tflite'}"]) == {
        "": tmp_path, "yamnet": tmp_path / "y.tflite"}
    with pytest.raises(UserError, match="is not the published file"):
        load_embedder("yamnet", weights=parse_weights([f"yamnet={tmp_path / 'y.tflite'}"]))
    for words, said in (([f"yamnot={tmp_path}"], "yamnot"), (["nowhere"], "nothing at nowhere"),
                        ([str(tmp_path), str(tmp_path)], "two places")):
        with pytest.raises(UserError, match=said):
            parse_weights(words)


@pytest.mark.parametrize("suffix", ["wav", "aiff", "ogg"])
def test_a_clip_that_was_cut_off_is_not_scored_as_a_shorter_one(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(16000), 8000)
    assert reading.read_clip(path).seconds == 2.0
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="truncated|cannot be read"):
        reading.read_clip(path)
