"""Sample k is a pure function of (seed, k), and reading a segment equals reading the whole file and cutting."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest
import soundfile
import soxr
import torch
from torch.utils.data import DataLoader

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Condition
from audiogen.core.mel_format import MelFormat
from audiogen.data.manifest import Entry, Manifest
from audiogen.data.segments import SegmentDataset, collate, read_segment

RATE = 22050
MEL = MelFormat()


def noise(seconds: float, rate: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    return 0.2 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))


def entry_of(path, **fields) -> Entry:
    info = soundfile.info(path)
    return Entry(str(path), info.frames / info.samplerate, info.samplerate, info.channels, **fields)


@pytest.fixture
def files(tmp_path):
    """Four files: 3 s, 2 s, 1 s of noise, and 0.2 s of a constant, at different rates."""
    entries = []
    for name, seconds, rate, style in [("a b", 3.0, 22050, "x"), ("ü", 2.0, 44100, "x"), ("c", 1.0, 8000, "y")]:
        soundfile.write(tmp_path / f"{name}.flac", noise(seconds, rate, seed=rate), rate)
        entries.append(entry_of(tmp_path / f"{name}.flac", styles=(style,), text=f"{name} text"))
    soundfile.write(tmp_path / "short.wav", np.full(4410, 0.5), RATE)
    return [*entries, entry_of(tmp_path / "short.wav", styles=("y",))]


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.ogg", "x.aiff"])
def test_seeking_equals_cutting_bit_for_bit_at_the_native_rate(tmp_path, name):
    soundfile.write(tmp_path / name, noise(4.0, RATE), RATE)
    whole = soundfile.read(tmp_path / name, dtype="float32")[0].mean(axis=1)
    for start, time in [(0, 1000), (12345, 7000), (60000, 20000), (85000, 9999), (88199, 10)]:
        np.testing.assert_array_equal(read_segment(tmp_path / name, start, time, RATE), whole[start : start + time])


@pytest.mark.parametrize("name, rate", [("x.wav", 44100), ("x.flac", 48000), ("x.ogg", 8000), ("x.mp3", 16000),
                                        ("x.opus", 48000), ("x.flac", 11111)])
def test_seeking_equals_resampling_the_whole_file_and_cutting_at_other_rates(tmp_path, name, rate):
    options = {"format": "OGG", "subtype": "OPUS"} if name == "x.opus" else {}
    soundfile.write(tmp_path / name, noise(4.0, rate), rate, **options)
    whole = soxr.resample(soundfile.read(tmp_path / name, dtype="float32")[0].mean(axis=1), rate, RATE, quality="HQ")
    for start, time in [(0, 1000), (12347, 7000), (60001, 20000), (85003, 9999)]:
        segment = read_segment(tmp_path / name, start, time, RATE)
        expected = whole[start : start + time]
        assert abs(len(segment) - len(expected)) <= 1
        both = min(len(segment), len(expected))
        np.testing.assert_allclose(segment[:both], expected[:both], atol=1e-4)


def test_sample_k_depends_on_seed_and_k_alone(files):
    dataset = SegmentDataset(files, MEL, frames=20, seed=1, gain_db=(-6, 6))
    again = SegmentDataset(files, MEL, frames=20, seed=1, gain_db=(-6, 6))
    other = SegmentDataset(files, MEL, frames=20, seed=2, gain_db=(-6, 6))
    order = [7, 3, 123456789, 0, 3]
    for k in order:
        assert torch.equal(dataset[k].audio, again[k].audio)
    assert dataset.place(3) == again.place(3)
    assert [dataset.place(k) for k in range(20)] != [other.place(k) for k in range(20)]
    assert len({dataset.place(k).start for k in range(20)}) > 10


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(files, workers):
    def load(count):
        dataset = SegmentDataset(files, MEL, frames=10, seed=3)
        numbers = [list(range(4 * step, 4 * step + 4)) for step in (5, 6, 7)]
        return list(DataLoader(dataset, batch_sampler=numbers, collate_fn=collate, num_workers=count))

    for one, two in zip(load(0), load(workers), strict=True):
        assert torch.equal(one.ids, two.ids) and torch.equal(one.audio, two.audio)
        assert torch.equal(one.lengths, two.lengths) and one.prompts == two.prompts


def test_a_short_file_is_followed_by_zeros_and_its_length_tells(files):
    dataset = SegmentDataset(files[3:], MEL, frames=40)
    example = dataset[0]
    assert example.audio.shape == (1, 40 * 256) and example.length == 18  # ceil(4410 / 256)
    assert bool((example.audio[0, :4410] == 0.5).all()) and bool((example.audio[0, 4410:] == 0).all())


def test_files_come_once_an_epoch_in_another_order_each_time(files):
    dataset = SegmentDataset(files, MEL, frames=5, weights="files")
    epochs = [[dataset.place(4 * e + i).index for i in range(4)] for e in range(8)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert len(dataset) == 4


def test_weights_follow_seconds_or_styles(files):
    draws = 3000
    seconds = Counter(SegmentDataset(files, MEL, frames=5).place(k).index for k in range(draws))
    for index, expected in enumerate([3 / 6.2, 2 / 6.2, 1 / 6.2, 0.2 / 6.2]):
        assert abs(seconds[index] / draws - expected) < 0.04
    styles = Counter(SegmentDataset(files, MEL, frames=5, weights="styles").place(k).index for k in range(draws))
    for index, expected in enumerate([0.5 * 3 / 5, 0.5 * 2 / 5, 0.5 / 1.2, 0.5 * 0.2 / 1.2]):
        assert abs(styles[index] / draws - expected) < 0.04


def test_the_gain_stays_in_its_range_and_below_full_scale(files):
    quiet = SegmentDataset(files[3:], MEL, frames=10, gain_db=(-6, 0))
    levels = [float(quiet[k].audio.max()) for k in range(30)]
    assert min(levels) >= 0.5 * 10 ** (-6 / 20) - 1e-6 and max(levels) <= 0.5 + 1e-6 and max(levels) - min(levels) > 0.1
    loud = SegmentDataset(files[3:], MEL, frames=10, gain_db=(20, 20))
    assert float(loud[0].audio.max()) == pytest.approx(0.99, abs=1e-6)


def test_the_cache_holds_the_same_sound_to_16_bits(files):
    read, cached = (SegmentDataset(files, MEL, frames=20, seed=1, cache=cache) for cache in (False, True))
    for k in range(12):
        assert (read[k].audio - cached[k].audio).abs().max() < 1.01 / 32768
        assert read[k].length == cached[k].length
    assert read.cache_bytes == 0 and abs(cached.cache_bytes - 2 * 6.2 * RATE) < 8


def test_encode_gets_the_true_start_and_its_parts_are_stacked(files):
    def encode(entry, start, frames, rng):
        return Condition(vector=torch.tensor([start]), aligned=torch.full((3, frames), float(rng.rand(1)[0, 0])))

    dataset = SegmentDataset(files[:1], MEL, frames=20, encode=encode)
    batch = collate([dataset[k] for k in (4, 9)])
    assert batch.condition.vector.shape == (2, 1) and batch.condition.aligned.shape == (2, 3, 20)
    assert batch.condition.tokens is None and batch.mel is None and batch.ids.tolist() == [4, 9]
    assert batch.prompts == ("a b text", "a b text")
    whole = soundfile.read(files[0].path, dtype="float32")[0].mean(axis=1)
    for row in range(2):
        start = round(float(batch.condition.vector[row]) * RATE)
        np.testing.assert_array_equal(batch.audio[row, 0].numpy(), whole[start : start + 20 * 256])


def test_a_bad_file_is_reported_once_and_is_silence_of_length_0(files, tmp_path, caplog):
    (tmp_path / "c.flac").write_bytes(b"no longer audio")
    dataset = SegmentDataset(files, MEL, frames=10, weights="files", bad_share=0.3)
    with caplog.at_level(logging.WARNING, "audiogen.data"):
        examples = [dataset[k] for k in range(12)]
    bad = [e for k, e in enumerate(examples) if dataset.place(k).index == 2]
    assert len(bad) == 3 and all(e.length == 0 and bool((e.audio == 0).all()) for e in bad)
    assert len(caplog.records) == 1 and "c.flac" in caplog.text
    assert dataset.bad_files == [files[2].path]


@pytest.mark.parametrize("cache", [False, True])
def test_more_than_one_percent_of_bad_files_stops_the_run(files, tmp_path, cache):
    soundfile.write(tmp_path / "c.flac", noise(0.5, 8000), 8000)  # not what the manifest says
    with pytest.raises(UserError, match="1 of 4 files.*4000 samples at 8000 Hz where the manifest says 8000"):
        dataset = SegmentDataset(files, MEL, frames=10, weights="files", cache=cache)
        for k in range(4):
            dataset[k]


def test_nan_samples_are_a_bad_file(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.array([0.1, np.nan, 0.2]), RATE, subtype="FLOAT")
    with pytest.raises(UserError, match="NaN"):
        read_segment(tmp_path / "x.wav", 0, 3, RATE)


def test_an_empty_choice_says_so(files):
    with pytest.raises(UserError, match="none in the split 'test'"):
        SegmentDataset(files, MEL, frames=10, split="test")
    with pytest.raises(UserError, match="has the style 'z'"):
        SegmentDataset(Manifest(tuple(files)), MEL, frames=10, styles=["z"])
