"""Published files become checkpoints that render the same; what cannot be read is one line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from audiogen.cli.convert import read_statistics
from audiogen.core.checkpoint import load_checkpoint
from audiogen.core.errors import UserError
from audiogen.core.mel_format import MEL_FORMATS

SETTINGS = {
    "resblock": "1", "upsample_rates": [8, 8, 2, 2], "upsample_kernel_sizes": [16, 16, 4, 4],
    "upsample_initial_channel": 16, "resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1]],
    "num_mels": 80, "n_fft": 1024, "hop_size": 256, "win_size": 1024, "sampling_rate": 22050, "fmin": 0, "fmax": 8000,
}


@pytest.fixture
def published(tmp_path):
    """A small HiFi-GAN as its authors save one: weight norms in two parts, {"generator": ...}."""
    from vocoders.hifigan import HiFiGAN, HiFiGANConfig

    torch.manual_seed(0)
    model = HiFiGAN(HiFiGANConfig(
        mel=MEL_FORMATS["hifigan_22k"], channels=16, block_kernels=(3,), block_dilations=((1,),)
    )).eval()
    state = {}
    for name, value in model.state_dict().items():
        if name.endswith(".weight"):
            norm = value.flatten(1).norm(dim=1).reshape(-1, *[1] * (value.dim() - 1))
            state[f"{name}_g"], state[f"{name}_v"] = norm, value * 3.0
        else:
            state[name] = value
    torch.save({"generator": state}, tmp_path / "g_00000001")
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    return model


def test_a_published_file_becomes_a_checkpoint_that_renders_the_same(audiogen, published, tmp_path):
    said = audiogen("convert", "g_00000001", "-o", "out/hifigan")
    assert said.code == 0 and said.err == "" and "hifigan" in said.out and "config.json" in said.out
    loaded = load_checkpoint(tmp_path / "out/hifigan", room="vocoder")
    assert loaded.name == "hifigan" and loaded.mel == MEL_FORMATS["hifigan_22k"]
    mel = torch.randn(1, 80, 9, generator=torch.Generator().manual_seed(0)) - 4
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(mel), published(mel), rtol=0, atol=1e-6)
    content = (tmp_path / "g_00000001").read_bytes()
    assert loaded.labels["published"]["sha256"] == hashlib.sha256(content).hexdigest()
    card = (tmp_path / "out/hifigan/README.md").read_text()
    assert "g_00000001" in card and "licence" in card and loaded.labels["published"]["sha256"] in card
    assert audiogen("convert", "g_00000001", "-o", "out/hifigan").code == 0  # a checkpoint may be replaced


def test_what_is_missing_or_too_much_is_named(audiogen, published, tmp_path):
    content = torch.load(tmp_path / "g_00000001", weights_only=True)
    state = content["generator"]
    torch.save({"generator": {**state, "extra.bias": torch.zeros(2)}}, "more.pt")
    torch.save({"generator": {key: value for key, value in state.items() if key != "conv_post.bias"}}, "less.pt")
    torch.save({"generator": {key: value for key, value in state.items() if key != "conv_pre.weight_v"}}, "half.pt")
    for file, said in (("more.pt", "unexpected: extra.bias"), ("less.pt", "missing: conv_post.bias"),
                       ("half.pt", "conv_pre.weight")):
        made = audiogen("convert", file, "-o", "out")
        assert made.code == 2 and said in made.err and file in made.err and made.err.count("\n") == 1, made.err
    assert not (tmp_path / "out").exists()


def test_another_family_is_named_on_both_sides(audiogen, published):
    said = audiogen("convert", "g_00000001", "--family", "vocos", "-o", "out")
    assert said.code == 2 and "weights of hifigan, not of vocos" in said.err
    said = audiogen("convert", "g_00000001", "--family", "griffin_lim", "-o", "out")
    assert said.code == 2 and "griffin_lim" in said.err and "hifigan" in said.err
    torch.save({"somebody.weight": torch.zeros(3)}, "other.pt")
    said = audiogen("convert", "other.pt", "-o", "out")
    assert said.code == 2 and "no family" in said.err and "somebody.weight" in said.err


def test_another_mel_format_is_refused(audiogen, published):
    said = audiogen("convert", "g_00000001", "--mel", "vocos_24k", "-o", "out")
    assert said.code == 2 and "80" in said.err and "100" in said.err
    said = audiogen("convert", "g_00000001", "--mel", "hifigan_23k", "-o", "out")
    assert said.code == 2 and "did you mean hifigan_22k" in said.err


class Trap:
    def __reduce__(self):
        return print, ("code was run",)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(audiogen, published):
    torch.save({"generator": Trap()}, "trap.pt")
    said = audiogen("convert", "trap.pt", "-o", "out")
    assert said.code == 2 and "run code" in said.err and "code was run" not in said.out + said.err


@pytest.mark.parametrize("file", ["nothing.pt", "text.pt"])
def test_a_file_that_is_none_is_one_line(audiogen, published, file):
    Path("text.pt").write_text("x")
    said = audiogen("convert", file, "-o", "out")
    assert said.code == 2 and file in said.err and said.err.count("\n") == 1


def test_nothing_but_a_checkpoint_is_replaced(audiogen, published):
    Path("mine").mkdir()
    Path("mine/diary.txt").write_text("x")
    said = audiogen("convert", "g_00000001", "-o", "mine")
    assert said.code == 2 and "no checkpoint folder" in said.err and Path("mine/diary.txt").exists()


def test_statistics_come_from_two_rows_or_are_refused(tmp_path):
    rows = np.arange(160.0).reshape(2, 80)
    np.save(tmp_path / "stats.npy", rows)
    found = read_statistics(tmp_path / "stats.npy")
    assert found["mean"].dtype == np.float32
    np.testing.assert_array_equal([found["mean"], found["scale"]], rows)
    np.save(tmp_path / "flat.npy", rows[0])
    for name, content, said in (("flat.npy", None, r"\(80,\)"), ("meanvar.joblib", b"x", "pickle.*numpy.save"),
                                ("bad.h5", b"x", "HDF5"), ("none.npy", None, "no file")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            read_statistics(tmp_path / name)


def test_statistics_of_parallel_wavegan_are_read_from_hdf5(tmp_path):
    """h5py's own bytes, written once: float32 arrays "mean" and "scale" of three numbers each."""
    file = Path(__file__).parents[1] / "golden" / "mel_stats.h5"
    found = read_statistics(file)
    np.testing.assert_allclose(found["mean"], [-1.5, -2.0, 0.25])
    np.testing.assert_allclose(found["scale"], [0.5, 1.0, 2.0])
