from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat
from audiogen.data.manifest import Entry, Manifest
from audiogen.data.mel_pairs import MelPairs, collate_pairs

MEL = MelFormat(sample_rate=8000, n_fft=64, win_length=64, hop_length=16, n_mels=8, f_max=4000.0)


@pytest.fixture
def pairs(tmp_path):
    """Two files whose sample n is n / 10000, and mels whose column t is t: what belongs together can be seen."""
    (tmp_path / "a").mkdir()
    (tmp_path / "mels" / "a").mkdir(parents=True)
    entries = []
    for name, hops in (("a/one", 40), ("two", 25)):
        soundfile.write(tmp_path / f"{name}.wav", np.arange(hops * 16) / 10_000, 8000, subtype="FLOAT")
        entries.append(Entry(f"{name}.wav", hops * 16 / 8000, 8000, 1))
    np.save(tmp_path / "mels" / "a" / "one.npy", np.tile(np.arange(40.0), (8, 1)))
    save_file({"mel": torch.arange(26.0).expand(8, 26).contiguous()}, tmp_path / "mels" / "two.safetensors",
              metadata={"mel_format": json.dumps(dataclasses.asdict(MEL))})
    return Manifest(tuple(entries), tmp_path), tmp_path / "mels"


def test_a_segments_mel_lies_over_its_audio(pairs):
    manifest, mels = pairs
    data, starts = MelPairs(manifest, MEL, mels, frames=6), set()
    for k in range(200):
        audio, mel, _ = data[k]
        assert audio.shape == (1, 96) and mel.shape == (8, 6)
        assert float(audio[0, 0]) * 10_000 / 16 == pytest.approx(float(mel[0, 0]), abs=1e-3)
        starts.add(int(mel[0, 0]))
    assert min(starts) == 0 and max(starts) == 34  # every place of the longer file, its last one too
    batch = collate_pairs([data[0], data[1]])
    assert batch.mel.shape == (2, 8, 6) and batch.ids.tolist() == [0, 1]


def test_item_k_is_always_the_same_and_another_seed_gives_others(pairs):
    first, second = MelPairs(*pairs_of(pairs), frames=6), MelPairs(*pairs_of(pairs), frames=6, seed=1)
    assert all(torch.equal(first[k].mel, MelPairs(*pairs_of(pairs), frames=6)[k].mel) for k in range(3))
    assert any(not torch.equal(first[k].mel, second[k].mel) for k in range(9))


def pairs_of(pairs):
    return pairs[0], MEL, pairs[1]


def test_mels_that_do_not_fit_are_named(pairs):
    manifest, mels = pairs
    np.save(mels / "a" / "one.npy", np.zeros((8, 37)))
    with pytest.raises(UserError, match="37 frames and a/one.wav has 40 hops"):
        MelPairs(manifest, MEL, mels, frames=6)
    np.save(mels / "a" / "one.npy", np.zeros((7, 40)))
    with pytest.raises(UserError, match=r"\(7, 40\); a mel here is \(8, frames\)"):
        MelPairs(manifest, MEL, mels, frames=6)
    np.save(mels / "a" / "one.npy", np.full((8, 40), np.nan))
    with pytest.raises(UserError, match="NaN"):
        MelPairs(manifest, MEL, mels, frames=6)
    (mels / "a" / "one.npy").write_text("no array")
    with pytest.raises(UserError, match="no readable mel"):
        MelPairs(manifest, MEL, mels, frames=6)


def test_a_mel_of_another_format_is_refused_with_the_fields_that_differ(pairs):
    manifest, mels = pairs
    other = dataclasses.replace(MEL, f_min=50.0)
    with pytest.raises(UserError, match="f_min"):
        MelPairs(manifest, other, mels, frames=6)


def test_files_without_a_mel_are_counted_and_none_at_all_is_an_error(pairs, capsys):
    manifest, mels = pairs
    (mels / "two.safetensors").unlink()
    assert len(MelPairs(manifest, MEL, mels, frames=6).entries) == 1
    assert "1 of 2 files have no mel" in capsys.readouterr().out
    (mels / "a" / "one.npy").unlink()
    with pytest.raises(UserError, match="a mel has its file's name"):
        MelPairs(manifest, MEL, mels, frames=6)
