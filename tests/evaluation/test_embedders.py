"""Embedders: the front ends against golden numbers and librosa, the weight files against their own facts."""

from __future__ import annotations

import hashlib
import math
import struct

import numpy as np
import pytest
import torch

from audiogen.core.errors import UserError
from audiogen.core.registry import table
from evaluation.embedders.base import Embedder, load_embedder, read_weights, windows
from evaluation.embedders.hdf5 import read_hdf5
from evaluation.embedders.melstats import PATCH, vggish_filters, vggish_log_mel
from evaluation.embedders.tflite import read_tflite


def sine(seconds, dtype=torch.float64):
    return torch.sin(2 * math.pi * 1000 * torch.arange(round(seconds * 16000), dtype=dtype) / 16000)


@pytest.fixture(scope="module", params=["musicnn", "musicnn_mtt", "yamnet"])
def weighted(request, shared_weights):
    return load_embedder(request.param, weights=shared_weights)


# Golden numbers: the published VGGish code (numpy, float64) run once on these inputs.


def test_the_filter_bank_is_the_published_one():
    filters = vggish_filters()
    assert filters.shape == (257, 64)
    assert filters.sum().item() == pytest.approx(230.913599161, rel=1e-10)
    assert int((filters > 0).sum()) == 461


@pytest.mark.parametrize("audio, examples, mean, std", [
    (sine(3), 3, -3.429618696, 2.126577336),
    (torch.from_numpy(np.random.RandomState(0).randn(16000) * 0.1), 1, 1.088863632, 0.786135562),
    (torch.zeros(16000, dtype=torch.float64), 1, math.log(0.01), 0.0),
])
def test_the_log_mel_front_end_gives_the_published_numbers(audio, examples, mean, std):
    patches = windows(vggish_log_mel(audio)[None], PATCH, PATCH)[0]
    assert patches.shape == (examples, 96, 64)
    assert patches.mean().item() == pytest.approx(mean, abs=2e-9)
    assert patches.std(correction=0).item() == pytest.approx(std, abs=2e-9)


def test_the_published_extremes_of_a_sine():
    patches = windows(vggish_log_mel(sine(3))[None], PATCH, PATCH)
    assert patches.min().item() == pytest.approx(-4.601163052, abs=2e-9)
    assert patches.max().item() == pytest.approx(4.811117725, abs=2e-9)


@pytest.mark.parametrize("time, count", [(15599, 0), (15600, 1), (30959, 1), (30960, 2)])
def test_a_window_needs_all_its_samples(time, count):
    embedder = load_embedder("melstats")
    assert embedder(torch.zeros(2, time)).shape == (2, count, 128)
    assert (time >= round(embedder.window * embedder.sample_rate)) == (count > 0)


def test_melstats_are_mean_and_deviation_of_each_band():
    audio = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    features = load_embedder("melstats")(audio)[0, 0]
    patch = vggish_log_mel(audio)[0, :96]
    expected = np.concatenate([patch.numpy().mean(0), patch.numpy().std(0)])
    assert np.allclose(features.numpy(), expected, atol=1e-5)


def test_absent_weights_are_one_line_with_the_places_and_the_way_out(tmp_path, monkeypatch):
    monkeypatch.delenv("AUDIOGEN_WEIGHTS", raising=False)
    for name in set(table("embedder")) - {"melstats"}:
        with pytest.raises(UserError, match="melstats") as caught:
            load_embedder(name, weights=tmp_path)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setenv("AUDIOGEN_WEIGHTS", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="elsewhere"):
        load_embedder("yamnet")


def test_a_weight_file_that_was_changed_is_refused(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"x")
    good = hashlib.sha256(b"x").hexdigest()
    assert read_weights("w.bin", sha256=good, source="s", weights=tmp_path) == b"x"
    with pytest.raises(UserError, match="not the published file"):
        read_weights("w.bin", sha256="0" * 64, source="s", weights=tmp_path)


@pytest.mark.parametrize("reader", [read_hdf5, read_tflite])
def test_other_files_and_cut_ones_are_refused(reader):
    for data in (b"", b"text", b"\x89HDF\r\n\x1a\n" + bytes(7), struct.pack("<I", 9999) + b"TFL3",
                 b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0" + bytes(80)):
        with pytest.raises(UserError):
            reader(data)


def test_every_published_array_is_read_and_a_cut_file_is_not(shared_weights):
    data = (shared_weights / "MSD_musicnn.h5").read_bytes()
    arrays = read_hdf5(data)
    assert len(arrays) == 64 and sum(array.size for array in arrays.values()) == 792079
    assert arrays["model_weights/dense/dense/kernel_1:0"].shape == (1506, 200)
    assert min(a.min() for k, a in arrays.items() if "variance" in k) > 0  # a variance; bytes read askew would not be
    with pytest.raises(UserError, match="corrupt"):
        read_hdf5(data[: len(data) // 2])


def test_what_an_embedder_says_of_itself_is_what_it_does(weighted):
    assert isinstance(weighted, Embedder)
    audio = torch.randn(2, round(16000 * (weighted.window + 1.01 * weighted.hop)),
                        generator=torch.Generator().manual_seed(1)) * 0.1
    features = weighted(audio)
    assert features.shape == (2, 2, weighted.dim) and features.dtype == torch.float32
    assert torch.isfinite(features).all() and not features.requires_grad
    assert weighted(audio[:, : round(16000 * weighted.window) - 300]).shape[1] == 0
    # a clip's features do not depend on its neighbours in the batch, and the second window starts one hop later
    assert torch.allclose(weighted(audio[1:])[0], features[1], atol=1e-4)
    later = weighted(audio[:, round(16000 * weighted.hop):])[:, 0]
    if weighted.name == "yamnet":  # musicnn's frames are centred, so its first one sees the padding
        assert torch.allclose(later, features[:, 1], atol=1e-4)
    assert (features[:, 0] - features[:, 1]).abs().max() > 1e-3
    assert len(weighted.weights_sha256) == 64


def test_musicnn_hears_what_librosa_hears(librosa, shared_weights):
    audio = torch.randn(16000, generator=torch.Generator().manual_seed(2)) * 0.1
    mel = librosa.feature.melspectrogram(y=audio.numpy(), sr=16000, n_fft=512, hop_length=256, n_mels=96)
    found = load_embedder("musicnn", weights=shared_weights).log_mel(audio[None])[0]
    assert np.allclose(found.numpy(), np.log10(10000 * mel + 1).T, atol=2e-5)


def test_the_taggers_name_real_sounds(shared_data, shared_weights):
    from audiogen.core.audio import Audio
    from audiogen.signal.resample import resample

    def read(path):
        clip = Audio.read(path, seconds=5.0)
        return resample(clip.samples.mean(0), clip.sample_rate, 16000)[None]

    yamnet = load_embedder("yamnet", weights=shared_weights)
    assert len(yamnet.classes) == 521 and yamnet.classes[0] == "Speech"
    rooster = sorted((shared_data / "esc10" / "rooster").iterdir())[0]
    heard = yamnet.scores(read(rooster)).amax((0, 1))
    assert {yamnet.classes[i] for i in heard.topk(6).indices} & {"Chicken, rooster", "Fowl"}
    musicnn = load_embedder("musicnn_mtt", weights=shared_weights)
    assert len(musicnn.tags) == 50
    strings = sorted((shared_data / "music" / "baroque_string_orchestra").iterdir())[0]
    heard = musicnn.tag(read(strings)).mean((0, 1))
    assert {musicnn.tags[i] for i in heard.topk(3).indices} & {"classical", "strings", "violin"}
