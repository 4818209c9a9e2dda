from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.made_states import made_mel, made_state
from vocoder_reach import assert_a_frame_sees_just_its_context, assert_chunks_with_their_context_are_the_whole

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MEL_FORMATS, MelFormat
from audiogen.signal.mel import mel_filterbank
from vocoders.vocos import Vocos, VocosConfig, inverse_basis

GOLDEN = Path(__file__).parents[1] / "golden"
LAYOUTS = json.loads((GOLDEN / "vocos.json").read_text())  # of the original class, at full size and small
SMALL = VocosConfig(MelFormat(), channels=32, hidden=48, layers=2)


def _state(layout: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Made weights, with norms and scales near 1 as trained ones are, so that the layers are heard."""
    state = made_state({name: tuple(shape) for name, shape in layout.items()})
    for name, value in state.items():
        if "norm.weight" in name:
            value += 1.0
        elif name.endswith("gamma"):
            value += 0.3
    state["head.out.weight"] *= 2
    state["head.out.bias"][: len(state["head.out.bias"]) // 2] -= 2
    state["head.istft.window"] = torch.hann_window(1024)
    return state


def _settings(padding: str = "center", **backbone: int) -> dict:
    """config.yaml of charactr/vocos-mel-24khz."""
    return {
        "feature_extractor": {
            "class_path": "vocos.feature_extractors.MelSpectrogramFeatures",
            "init_args": {"sample_rate": 24000, "n_fft": 1024, "hop_length": 256, "n_mels": 100, "padding": padding},
        },
        "backbone": {"class_path": "vocos.models.VocosBackbone", "init_args": {"input_channels": 100, **backbone}},
        "head": {"class_path": "vocos.heads.ISTFTHead",
                 "init_args": {"dim": 64, "n_fft": 1024, "hop_length": 256, "padding": padding}},
    }


def _model(config: VocosConfig = SMALL) -> Vocos:
    torch.manual_seed(0)
    return Vocos(config).eval()


@pytest.mark.parametrize("padding", ["center", "same"])
def test_the_original_answers_the_same(padding: str) -> None:
    model = Vocos.from_published(_state(LAYOUTS["small"]), _settings(padding))
    expected = torch.from_numpy(np.load(GOLDEN / "vocos.npz")[padding])
    with torch.no_grad():
        audio = model(made_mel(100, 23))[:, 0]
    assert expected.abs().max() > 0.1
    # The original stops with the last centred frame; here the hop that it begins is played too.
    assert audio.shape[1] == 23 * 256 and expected.shape[1] == (22 if padding == "center" else 23) * 256
    assert (audio[:, : expected.shape[1]] - expected).abs().max() < 1e-5


def test_the_published_preset_has_the_originals_tensors() -> None:
    model = Vocos(Vocos.presets["vocos_24k"])
    ours = {name: list(value.shape) for name, value in model.state_dict().items()}
    theirs = {name.split(".", 1)[1]: shape for name, shape in LAYOUTS["full"].items() if "window" not in name}
    assert ours == theirs
    assert sum(parameter.numel() for parameter in model.parameters()) == 13_531_650


def test_weights_without_a_configuration_say_their_sizes() -> None:
    model = Vocos.from_published(_state(LAYOUTS["small"]), {})
    assert model.config == VocosConfig(MEL_FORMATS["vocos_24k"], channels=64, hidden=128, layers=8)


def test_the_feature_extractors_buffers_are_compared_and_not_only_dropped() -> None:
    state = _state(LAYOUTS["small"])
    state["feature_extractor.mel_spec.spectrogram.window"] = torch.hann_window(1024)
    state["feature_extractor.mel_spec.mel_scale.fb"] = mel_filterbank(MEL_FORMATS["vocos_24k"]).T.clone()
    Vocos.from_published(state, _settings())
    wrong = replace(MEL_FORMATS["vocos_24k"], mel_scale="slaney")
    with pytest.raises(UserError, match="mel_scale.fb"):
        Vocos.from_published(state | {"feature_extractor.mel_spec.mel_scale.fb": mel_filterbank(wrong).T}, _settings())
    with pytest.raises(UserError, match="head.istft.window"):
        Vocos.from_published(state | {"head.istft.window": torch.hamming_window(1024)}, _settings())


def test_a_training_checkpoint_is_read_without_its_discriminators() -> None:
    state = _state(LAYOUTS["small"])
    more = {"multiperioddisc.discriminators.0.convs.0.bias": torch.zeros(3), "melspec_loss.mel_spec.x": torch.zeros(2)}
    settings = {"model": {"init_args": _settings()}}
    model = Vocos.from_published({"state_dict": state | more, "epoch": 3}, settings)
    assert torch.equal(model.out.bias, state["head.out.bias"])
    with pytest.raises(UserError, match=r"unexpected: backbone2\.bias"):
        Vocos.from_published({"state_dict": state | {"backbone2.bias": torch.zeros(3)}}, settings)


@pytest.mark.parametrize(
    "part, change, named",
    [("feature_extractor", {"class_path": "vocos.feature_extractors.EncodecFeatures"}, "EncodecFeatures"),
     ("head", {"class_path": "vocos.heads.IMDCTSymExpHead"}, "IMDCTSymExpHead"),
     ("backbone", {"init_args": {"adanorm_num_embeddings": 4}}, "EnCodec"),
     ("head", {"init_args": {"n_fft": 1024, "hop_length": 256}}, "padding='same'"),
     ("feature_extractor", {"init_args": {"f_min": 20}}, "f_min")],
)
def test_other_classes_and_options_of_the_original_are_refused_by_name(part: str, change: dict, named: str) -> None:
    settings = _settings()
    settings[part] = settings[part] | change
    with pytest.raises(UserError, match=named):
        Vocos.from_published(_state(LAYOUTS["small"]), settings)


def test_weights_of_another_format_or_family_are_refused() -> None:
    with pytest.raises(UserError, match="n_mels=100.*n_mels=80"):
        Vocos.from_published(_state(LAYOUTS["small"]), {}, mel=MelFormat())
    with pytest.raises(UserError, match="no Vocos weights.*embed"):
        Vocos.from_published({"conv_pre.weight": torch.zeros(3)}, {})


@pytest.mark.parametrize("padding", ["center", "same"])
def test_a_frames_audio_sees_exactly_its_context(padding: str) -> None:
    model = _model(replace(SMALL, mel=replace(MelFormat(), padding=padding)))
    assert_a_frame_sees_just_its_context(model, torch.randn(1, 80, 41, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("padding", ["center", "same"])
def test_chunks_with_their_context_are_the_whole(padding: str) -> None:
    model = _model(replace(SMALL, mel=replace(MelFormat(), padding=padding)))
    mel = torch.randn(2, 80, 60, generator=torch.Generator().manual_seed(2))
    assert_chunks_with_their_context_are_the_whole(model, mel)


def test_the_exported_form_of_the_transform_is_the_fourier_transform() -> None:
    real, imaginary = torch.randn(2, 3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.fft.irfft(torch.complex(real, imaginary), n=16)
    assert (torch.cat([real, imaginary], 1) @ inverse_basis(16).double() - expected).abs().max() < 1e-6


def test_what_is_exported_plays_the_same_without_complex_numbers(monkeypatch) -> None:
    model, mel = _model(), torch.randn(1, 80, 31, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = model(mel)
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
        monkeypatch.setattr(torch.fft, "irfft", None)
        assert (model(mel) - expected).abs().max() < 1e-6


def test_a_gradient_reaches_every_parameter() -> None:
    model = _model().train()
    model(torch.randn(1, 80, 9)).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_magnitudes_are_bounded() -> None:
    model = _model()
    with torch.no_grad():
        model.out.bias[:513] = 60.0
        audio = model(torch.zeros(1, 80, 8))
    assert audio.isfinite().all() and audio.abs().max() <= 100.0 * math.sqrt(1024)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UserError, match="layers=0"):
        replace(SMALL, layers=0)
    with pytest.raises(UserError, match="n_fft=1024.*hop_length=600"):
        replace(SMALL, mel=replace(MelFormat(), hop_length=600))
    with pytest.raises(UserError, match="80 mel bands"):
        _model()(torch.zeros(1, 100, 4))
