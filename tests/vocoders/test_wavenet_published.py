"""Published WaveNets compute what the original code computed: golden/wavenet.npz holds its answers to made weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from golden.made_states import made_mel, made_state

from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat
from vocoders.published import detect
from vocoders.wavenet import WaveNet

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "wavenet.json").read_text())
ANSWERS = np.load(GOLDEN / "wavenet.npz")
R9Y9 = [name for name in CASES["cases"] if not name.startswith("nv")]


def _audio(time: int) -> torch.Tensor:
    """(1, 1, time), as the originals heard it."""
    t = np.arange(time)
    wave = 0.6 * np.sin(0.21 * t + 0.3 * np.sin(0.017 * t)) * np.cos(0.011 * t)
    return torch.from_numpy(wave.astype(np.float32))[None, None]


def _state(name: str) -> dict[str, torch.Tensor]:
    """Made weights, enlarged as they were for the originals, so that their answers have a size of about 1."""
    made = made_state(CASES["cases"][name]["layout"])
    if name.startswith("nv"):
        size = {"embed.weight": 4.0, "conv_out.conv.weight": 2.0, "conv_end.conv.weight": 2.0}
        return {key: size.get(key, 1.0) * value for key, value in made.items()}
    grown = {key for key in made if key.endswith("weight_g") and "up" not in key}
    return {key: 2.5 * value if key in grown else value for key, value in made.items()}


def _r9y9(name: str) -> tuple[dict, MelFormat]:
    """What the original's hparams.json says, and a mel format of the case's size."""
    case = CASES["cases"][name]
    arguments = case["arguments"]
    scales = arguments.get("upsample_scales") or arguments["upsample_params"]["upsample_scales"]
    settings = {key: arguments[key] for key in ("stacks", "output_distribution") if key in arguments}
    if name.startswith("2018"):
        settings["builder"] = "wavenet"
    else:
        settings["stats"] = {"mean": np.zeros(case["n_mels"]), "scale": np.ones(case["n_mels"])}
    hop = math.prod(scales)
    return settings, MelFormat(n_fft=4 * hop, win_length=4 * hop, hop_length=hop, n_mels=case["n_mels"])


def _answer(model: WaveNet, name: str, mel: torch.Tensor, speaker: bool) -> torch.Tensor:
    with torch.no_grad():
        audio = _audio(mel.shape[2] * model.config.mel.hop_length)
        return model.parallel(mel, audio, style=torch.tensor([2]) if speaker else None)[0]


def _mel(name: str) -> torch.Tensor:
    case = CASES["cases"][name]
    low, high = (0.0, 1.0) if name.startswith("2018") else (-2.0, 2.0)
    return made_mel(case.get("n_mels", 20), case["frames"], low=low, high=high)


@pytest.mark.parametrize("name", R9Y9)
def test_r9y9s_forward_is_ours(name):
    case = CASES["cases"][name]
    settings, format = _r9y9(name)
    model = WaveNet.from_published({"state_dict": _state(name)}, settings, mel=format)
    answer = _answer(model, name, _mel(name), model.config.speakers > 0)[:, :: case["every"]]
    wanted = torch.from_numpy(ANSWERS[name])
    assert wanted.std() > 0.3
    assert (answer - wanted).abs().max() < 1e-5


def test_other_spellings_of_weight_norm_are_the_same_model():
    name = "2019_logistics"
    settings, format = _r9y9(name)
    state, mel = _state(name), _mel(name)
    modern = {
        key.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"): value
        for key, value in state.items()
    }
    first = WaveNet.from_published({"state_dict": state}, settings, mel=format)
    second = WaveNet.from_published(modern, settings, mel=format)
    assert torch.equal(_answer(first, name, mel, False), _answer(second, name, mel, False))


def test_the_corpus_statistics_normalise_the_mel():
    name = "2019_logistics"
    settings, format = _r9y9(name)
    mean, scale = np.linspace(-3, -1, 20), np.linspace(0.5, 2, 20)
    stats = {"stats": {"mean": mean, "scale": scale}}
    raw = _mel(name) * torch.from_numpy(scale).float()[:, None] + torch.from_numpy(mean).float()[:, None]
    model = WaveNet.from_published({"state_dict": _state(name)}, settings | stats, mel=format)
    assert (_answer(model, name, raw, False) - torch.from_numpy(ANSWERS[name])).abs().max() < 1e-5
    del settings["stats"]
    with pytest.raises(UserError, match="statistics"):
        WaveNet.from_published({"state_dict": _state(name)}, settings, mel=format)


def test_what_hparams_say_of_audio_and_mels_is_taken_over():
    name = "2019_full_upsampling"
    settings, _ = _r9y9(name)
    hparams = {"sample_rate": 24000, "fft_size": 1024, "hop_size": 256, "win_length_ms": -1.0, "fmin": 50, "fmax": 7000,
               "num_mels": 80, "global_gain_scale": 0.55, "preprocess": "preemphasis",
               "postprocess": "inv_preemphasis", "log_scale_min": -9.0, "win_length": 1024}
    config = WaveNet.from_published({"state_dict": _state(name)}, settings | hparams).config
    assert (config.gain, config.preemphasis, config.log_scale_min) == (0.55, 0.85, -9.0)
    mel = config.mel
    assert (mel.sample_rate, mel.f_min, mel.f_max, mel.log, mel.hop_length) == (24000, 50.0, 7000.0, "log10", 256)


def _nv_format() -> MelFormat:
    return MelFormat(sample_rate=16000, n_fft=40, win_length=40, hop_length=10, n_mels=20, f_max=8000.0)


def test_nv_wavenets_model_is_ours():
    state, settings = _state("nv_model"), {"wavenet_config": {"max_dilation": 4}}
    model = WaveNet.from_published(state, settings, mel=_nv_format())
    assert model.config.dilations == (1, 2, 4, 1, 2)
    answer = _answer(model, "nv_model", _mel("nv_model"), False)
    assert (answer - torch.from_numpy(ANSWERS["nv_model"])).abs().max() < 1e-5


def _exported() -> dict:
    """What the original's export_weights makes, with a previous embedding that is not zero, and its conditioning."""
    state = _state("nv_model")

    def part(kind: str, name: str) -> list[torch.Tensor]:
        return [value for key, value in state.items() if key.startswith(f"{kind}_layers.") and key.endswith(name)]

    return {
        "embedding_prev": 2.0 * made_state({"embedding_prev": (32, 8)})["embedding_prev"],
        "embedding_curr": state["embed.weight"], "conv_out_weight": state["conv_out.conv.weight"],
        "conv_end_weight": state["conv_end.conv.weight"], "max_dilation": 4, "use_embed_tanh": True,
        **{f"{kind}_weights": part(kind, "weight") for kind in ("dilate", "res", "skip")},
        **{f"{kind}_biases": part(kind, "bias") for kind in ("dilate", "res", "skip")},
        **{key: state[key] for key in state if key.startswith(("upsample.", "cond_layers."))},
    }


class _Given:
    """An rng whose uniform numbers are given, (batch, 1, time)."""

    def __init__(self, numbers: torch.Tensor) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def tape_rand(self, channels: int, start: int, stop: int, *, device: str) -> torch.Tensor:
        assert channels == 1
        return self.numbers[:, :, start:stop].to(device)


def test_nv_wavenets_reference_draws_the_samples_that_we_draw():
    """The original's C++ reference, given two embeddings, a tanh after them and uniform numbers, drew these codes."""
    model = WaveNet.from_published(_exported(), {}, mel=_nv_format())
    mel = torch.cat([_mel("nv_model"), made_mel(20, 6, low=-1.0, high=3.0)])
    audio = model(mel, rng=_Given(torch.from_numpy(ANSWERS["nv_uniform"])[:, None]))
    codes = model.distribution.fed_back(audio[:, 0])
    assert torch.equal(codes, torch.from_numpy(ANSWERS["nv_samples"]).long())


def test_an_exported_dictionary_without_conditioning_is_an_unconditional_model():
    bare = {key: value for key, value in _exported().items() if "." not in key}
    model = WaveNet.from_published(bare, {}, mel=_nv_format())
    assert model.config.upsampling == "none"
    assert model(torch.zeros(1, 20, 3)).shape == (1, 1, 30)
    with pytest.raises(UserError, match="missing skip_biases; unknown extra"):
        WaveNet.from_published({k: v for k, v in bare.items() if k != "skip_biases"} | {"extra": 1}, {})


@pytest.mark.parametrize("preset", sorted(set(CASES["full"]) & set(WaveNet.presets)))
def test_a_preset_has_the_published_size(preset):
    """Less the gains of weight norms, the last layer's residual, which nothing reads, and biases that are one here."""
    published, config = CASES["full"][preset], WaveNet.presets[preset]
    model = WaveNet(config)
    unread = config.channels * config.gate_channels + config.channels
    folded = published["parameters"] - published.get("gains", 0)
    if preset == "nv_wavenet_16k":  # no residual in the last layer; conv_out, conv_end and embed have no bias
        folded += 2 * 256 + config.channels - config.layers * 2 * config.gate_channels
    else:
        folded -= unread
        if "2018" in preset:
            folded -= config.layers * 2 * config.gate_channels  # of conv1x1c
        assert config.receptive_field == published["receptive_field"]
    assert sum(p.numel() for p in model.parameters()) == folded


@pytest.mark.parametrize("name", ["2019_logistics", "2018_softmax", "nv_model"])
def test_the_family_is_found_by_its_keys(name):
    assert detect(_state(name)) == "wavenet"


@pytest.mark.parametrize(
    "change, named",
    [({"drop": "conv_layers.2.conv1x1_skip.bias"}, "missing: conv_layers.2.conv1x1_skip.bias"),
     ({"drop": "last_conv_layers.3.weight_g"}, "last_conv_layers.3.weight"),
     ({"drop": "conv_layers.1.conv1x1c.weight_v"}, "incomplete"),
     ({"add": "conv_layers.0.extra.weight"}, "unexpected: conv_layers.0.extra.weight"),
     ({"set": {"input_type": "mulaw"}}, "mulaw"), ({"set": {"stacks": 3}}, "stacks=3"),
     ({"set": {"output_distribution": "Normal"}}, "Normal"), ({"set": {"preprocess": "denoise"}}, "denoise"),
     ({"set": {"upsample_params": {"upsample_activation": "ReLU"}}}, "ReLU")],
)
def test_what_does_not_fit_is_named(change, named):
    name = "2019_logistics"
    state = _state(name)
    settings, format = _r9y9(name)
    if "drop" in change:
        del state[change["drop"]]
    if "add" in change:
        state[change["add"]] = torch.ones(1)
    with pytest.raises(UserError, match=named):
        WaveNet.from_published({"state_dict": state}, settings | change.get("set", {}), mel=format)


def test_weights_of_another_family_are_refused():
    with pytest.raises(UserError, match="conv_pre"):
        WaveNet.from_published({"generator": {"conv_pre.weight": torch.ones(2, 2, 7)}}, {})
    with pytest.raises(UserError, match="n_mels|80|20"):  # another mel format than the weights'
        settings, _ = _r9y9("2019_logistics")
        WaveNet.from_published({"state_dict": _state("2019_logistics")}, settings, mel=MelFormat())
