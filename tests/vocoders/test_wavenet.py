"""WaveNet: sample by sample equals all at once, nothing is heard too early, streams go on exactly where they stood."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from audiogen.core.config import from_dict, to_dict
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.ops.wavenet_generate import start, wavenet_parameters
from vocoders.wavenet import WaveNet, WaveNetConfig

MEL = MelFormat(sample_rate=8000, n_fft=64, win_length=64, hop_length=16, n_mels=8, f_max=4000.0)
SMALL = WaveNetConfig(
    mel=MEL, layers=5, cycle=3, channels=12, gate_channels=10, skip_channels=14, hidden_channels=9, mixtures=3,
)
FORMS = {
    "logistics": SMALL,
    "gaussian": replace(SMALL, output="gaussian", kernel_size=3, skip_scale="recursive"),
    "softmax": replace(SMALL, output="softmax", classes=32, residual_scale=1.0, skip_scale="none"),
    "hold": replace(SMALL, upsampling="hold", kernel_size=3),
    "transposed_planes": replace(SMALL, upsampling="transposed_planes"),
    "transposed_frames": replace(SMALL, upsampling="transposed_frames", window=50),
    "unconditional": replace(SMALL, upsampling="none"),
    "style": replace(SMALL, style_dim=6),
    "style_held": replace(SMALL, style_dim=6, upsampling="hold", output="gaussian"),
    "speakers_alone": replace(SMALL, style_dim=6, speakers=4, upsampling="none"),
    "two_embeddings": replace(SMALL, output="softmax", classes=32, first_kernel=2, first_tanh=True, silence=5),
    "emphasis": replace(SMALL, gain=0.5, preemphasis=0.85),
}
every_form = pytest.mark.parametrize("form", FORMS)


def _model(config: WaveNetConfig, dtype: torch.dtype = torch.float32) -> WaveNet:
    """Its log scales are low, so that samples stay away from -1 and 1, where all would be the same."""
    torch.manual_seed(0)
    model = WaveNet(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        last = model.last_conv_layers[3]
        last.weight.mul_(0.3)
        if config.output != "softmax":
            last.bias[2 * len(last.bias) // 3 if config.output == "logistics" else 1 :] -= 3.0
    return model.to(dtype)


def _mel(batch: int = 1, frames: int = 6, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(batch, 8, frames, generator=torch.Generator().manual_seed(1)).to(dtype) * 2 - 5


def _audio(batch: int = 1, frames: int = 6, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return 0.2 * torch.randn(batch, 1, 16 * frames, generator=torch.Generator().manual_seed(2)).to(dtype)


def _style(config: WaveNetConfig, batch: int) -> torch.Tensor | None:
    if config.speakers:
        return torch.arange(batch) % config.speakers
    return torch.randn(batch, 6, generator=torch.Generator().manual_seed(3)) if config.style_dim else None


def _incremental(model: WaveNet, mel: torch.Tensor, audio: torch.Tensor, packed=None) -> torch.Tensor:
    """Teacher forced, in two calls that carry the state on: what each sample was to be drawn from."""
    batch, frames = mel.shape[0], mel.shape[2]
    stream = model.stream(batch=batch, style=_style(model.config, batch))
    stream.mel, stream.finished = mel, True
    packed = packed or stream.loop.packed
    state = start(packed, batch, previous=model.silence)
    fed = model.distribution.fed_back(model.heard(audio))
    made = []
    with torch.no_grad():
        for begin, end in ((0, 2), (2, frames)):
            condition, band = stream._conditions(begin, end)
            made.append(wavenet_parameters(packed, state, fed[:, begin * 16 : end * 16], condition, upsampling=band))
    return torch.cat(made, 2)


@every_form
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("batch", [1, 3])
def test_sample_by_sample_equals_all_at_once(form, dtype, tolerance, batch):
    """96 samples: every ring (at most 8 slots) goes round a dozen times."""
    model = _model(FORMS[form], dtype)
    mel, audio = _mel(batch, dtype=dtype), _audio(batch, dtype=dtype)
    with torch.no_grad():
        parallel = model.parallel(mel, audio, style=_style(model.config, batch))
    assert parallel.std() > 0.05
    assert (_incremental(model, mel, audio) - parallel).abs().max() < tolerance


@pytest.mark.parametrize("layer", range(5))
def test_a_tap_that_is_one_sample_off_is_noticed(layer, monkeypatch):
    """The test above would fail: the same weights, one layer looking back one sample further."""
    model = _model(SMALL, torch.float64)
    mel, audio = _mel(dtype=torch.float64), _audio(dtype=torch.float64)
    right = _incremental(model, mel, audio)
    shifted = list(SMALL.dilations)
    shifted[layer] += 1
    monkeypatch.setattr(WaveNetConfig, "dilations", property(lambda self: tuple(shifted)))
    wrong = _incremental(model, mel, audio, model.pack())
    assert (wrong - right).abs().max() > 1e-4


@pytest.mark.parametrize(
    "change", [{}, {"kernel_size": 3}, {"layers": 4, "cycle": 4}, {"layers": 1}, {"kernel_size": 3, "layers": 7}]
)
def test_a_sample_sees_its_receptive_field_and_nothing_else(change):
    """Gradients are zero outside and not zero at both ends."""
    config = replace(SMALL, **change)
    model = _model(config, torch.float64)
    audio = _audio(frames=6, dtype=torch.float64).requires_grad_()
    t = 83
    model.parallel(_mel(dtype=torch.float64), audio)[0, :, t].square().sum().backward()
    seen = audio.grad[0, 0].nonzero()[:, 0]
    assert int(seen.max()) == t - 1  # the sample before it is the last that it hears
    assert t - int(seen.min()) == config.receptive_field


@pytest.mark.parametrize("form", ["logistics", "hold", "transposed_planes", "transposed_frames"])
def test_a_frame_sees_the_frames_ahead_that_are_stated(form):
    model = _model(FORMS[form], torch.float64)
    mel = _mel(frames=14, dtype=torch.float64).sigmoid().requires_grad_()
    parameters = model.parallel(mel, _audio(frames=14, dtype=torch.float64))
    parameters[0, :, 7 * 16 : 8 * 16].square().sum().backward()
    seen = mel.grad[0].abs().sum(0).nonzero()[:, 0]
    assert int(seen.max()) == 7 + model.lookahead_frames


@every_form
def test_chunks_of_any_size_are_the_whole_clip_to_the_last_bit(form):
    model, mel = _model(FORMS[form]), _mel(2, 19)
    style, rng = _style(model.config, 2), lambda: SampleRng(4, ids=[7, 8])
    whole = model(mel, rng=rng(), style=style)
    assert whole.shape == (2, 1, 19 * 16) and 0.01 < whole.std() < 0.9
    for sizes in ([1] * 19, [2, 11, 6], [19]):
        stream = model.stream(batch=2, rng=rng(), style=style)
        pieces, pushed = [], 0
        for chunk in mel.split(sizes, 2):
            pieces.append(stream.push(chunk))
            pushed += chunk.shape[2]
            made = sum(piece.shape[2] for piece in pieces)
            assert made == max(0, pushed - model.lookahead_frames) * 16
        assert torch.equal(torch.cat([*pieces, stream.finish()], 2), whole)


@pytest.mark.parametrize("form", ["logistics", "gaussian", "softmax", "transposed_frames", "emphasis", "style"])
def test_a_stream_that_was_put_aside_goes_on_exactly(form):
    model, mel = _model(FORMS[form]), _mel(2, 19)

    def stream():
        return model.stream(batch=2, rng=SampleRng(4, ids=[7, 8]), style=_style(model.config, 2))

    first = stream()
    begun = first.push(mel[..., :13])
    saved = first.save()
    rest = torch.cat([first.push(mel[..., 13:]), first.finish()], 2)  # moves on: what was saved must not
    second = stream()
    second.restore(saved)
    assert torch.equal(torch.cat([second.push(mel[..., 13:]), second.finish()], 2), rest)
    assert begun.shape[2] + rest.shape[2] == 19 * 16
    with pytest.raises(UserError, match="another model's"):
        _model(replace(SMALL, layers=2)).stream(batch=2, style=None).restore(saved)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
def test_short_clips_in_single_frames_are_the_whole_clip(frames):
    model, mel = _model(replace(SMALL, context=0)), _mel(1, frames)
    stream = model.stream()
    pieces = [stream.push(frame) for frame in mel.split(1, 2)]
    assert torch.equal(torch.cat([*pieces, stream.finish()], 2), model(mel))


def test_a_clip_is_the_same_alone_and_in_a_batch():
    model, mel = _model(FORMS["gaussian"]), _mel(3, 5)
    together = model(mel, rng=SampleRng(0, ids=[4, 5, 6]))
    for index in range(3):
        alone = model(mel[index : index + 1], rng=SampleRng(0, ids=[4 + index]))
        assert (alone[0] - together[index]).abs().max() < 1e-4


def test_the_rng_decides_and_temperature_0_needs_none():
    model, mel = _model(SMALL), _mel()
    first = model(mel, rng=SampleRng(1))
    assert torch.equal(first, model(mel, rng=SampleRng(1)))
    assert not torch.equal(first, model(mel, rng=SampleRng(2)))
    assert torch.equal(model(mel), model(mel, rng=SampleRng(0, ids=[0])))
    best = model(mel, rng=SampleRng(1), temperature=0.0)
    assert torch.equal(best, model(mel, rng=SampleRng(2), temperature=0.0))


def test_noise_goes_on_at_the_offset():
    """A network that hears and sees nothing but its noise: a part of the clip is the part of the clip."""
    model = _model(replace(SMALL, output="gaussian", upsampling="none"))
    with torch.no_grad():
        model.last_conv_layers[3].weight.zero_()
    whole = model(_mel(frames=9), rng=SampleRng(1))
    assert torch.equal(model(_mel(frames=4), rng=SampleRng(1), offset=5), whole[..., 5 * 16 :])


def test_a_style_and_a_speaker_are_heard():
    for form in ("style", "style_held", "speakers_alone"):
        model, audio = _model(FORMS[form]), _audio(2)
        one, two = (_style(model.config, 4)[part] for part in (slice(0, 2), slice(2, 4)))
        with torch.no_grad():
            assert (model.parallel(_mel(2), audio, style=one) - model.parallel(_mel(2), audio, style=two)).std() > 0.02


def test_emphasis_is_undone_and_full_scale_is_kept():
    model, audio = _model(FORMS["emphasis"]), 0.2 * _audio(2)
    stream = model.stream(batch=2)
    halves = [stream.loop.deemphasized(half) / 0.5 for half in model.heard(audio).split(40, 1)]
    assert (torch.cat(halves, 1) - audio[:, 0]).abs().max() < 1e-6


def _batch(config: WaveNetConfig, batch: int = 2, frames: int = 6, extra: int = 0) -> Batch:
    lengths = torch.full((batch,), frames)
    style = _style(config, batch)
    mel = _mel(batch, frames + extra)
    return Batch(_audio(batch, frames), mel, lengths, Condition(vector=style), torch.arange(batch))


@every_form
def test_every_parameter_learns(form):
    """Under DDP a parameter without a gradient is an error."""
    model = _model(FORMS[form]).train()
    batch = _batch(model.config)
    if form == "transposed_planes":
        batch = batch._replace(mel=batch.mel.sigmoid())  # below 0 a ReLU after each scale says nothing
    losses = model.loss(batch, SampleRng(0, ids=[0, 1]))
    losses["loss"].backward()
    assert losses["loss"].isfinite() and not losses["bits"].requires_grad
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_the_loss_is_the_mean_of_what_the_network_says_of_each_sample():
    model = _model(SMALL)
    batch = _batch(SMALL, extra=1)  # formats with "center" have one frame more than the audio has hops
    with torch.no_grad():
        nats = -model.distribution.log_prob(model.parallel(batch.mel[..., :6], batch.audio), batch.audio[:, 0])
        losses = model.loss(batch, SampleRng(0))
        assert float(losses["loss"]) == pytest.approx(float(nats.mean()), rel=1e-5)
        assert float(losses["bits"]) == pytest.approx(float(nats.mean()) / math.log(2), rel=1e-5)
        short = model.loss(batch._replace(lengths=torch.tensor([6, 2])), SampleRng(0))
        wanted = (nats[0].mean() + nats[1, :32].mean()) / 2
        assert float(short["loss"]) == pytest.approx(float(wanted), rel=1e-5)


def test_a_gaussians_bits_are_those_of_16_bit_levels():
    model = _model(FORMS["gaussian"])
    with torch.no_grad():
        losses = model.loss(_batch(model.config), SampleRng(0))
    assert float(losses["bits"]) == pytest.approx(float(losses["loss"]) / math.log(2) + math.log2(65535 / 2), rel=1e-5)


@pytest.mark.parametrize("form", ["logistics", "gaussian", "softmax"])
def test_it_learns_a_tone(form):
    torch.manual_seed(0)
    model = WaveNet(FORMS[form])
    tone = 0.5 * torch.sin(0.3 * torch.arange(96))[None, None]
    batch = Batch(tone, _mel(), torch.tensor([6]), Condition(), torch.tensor([0]))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    bits = []
    for _ in range(30):
        optimizer.zero_grad()
        losses = model.loss(batch, SampleRng(0))
        losses["loss"].backward()
        optimizer.step()
        bits.append(float(losses["bits"]))
    assert bits[-1] < bits[0] - 1.5


def test_autocast_changes_the_likelihood_little():
    model, batch = _model(SMALL), _batch(SMALL)
    with torch.no_grad():
        exact = model.loss(batch, SampleRng(0))["loss"]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model.loss(batch, SampleRng(0))["loss"]
    assert rounded.dtype == torch.float32 and float(rounded) == pytest.approx(float(exact), rel=0.05)


@pytest.mark.parametrize("name", WaveNet.presets)
def test_a_preset_is_a_configuration(name):
    config = WaveNet.presets[name]
    assert from_dict(WaveNetConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert math.prod(config.scales) == config.mel.hop_length
    assert config.receptive_field == {
        "wavenet_mol_22k": 505, "wavenet_gaussian_22k": 505, "wavenet_mulaw_22k": 6139, "wavenet_mol_2018_22k": 505,
        "nv_wavenet_16k": 511,
    }[name]


@pytest.mark.parametrize(
    "change, named",
    [({"output": "student"}, "student"), ({"kernel_size": 4}, "kernel_size=4"), ({"layers": 0}, "layers=0"),
     ({"skip_scale": "half"}, "half"), ({"upsampling": "linear"}, "linear"), ({"first_kernel": 3}, "first_kernel=3"),
     ({"upsample_scales": (4, 3)}, r"\(4, 3\).*\(4, 4\)"), ({"upsampling": "transposed_frames"}, "window=0"),
     ({"speakers": 3}, "speakers=3"), ({"silence": 256}, "silence=256"), ({"preemphasis": 1.0}, "preemphasis=1.0"),
     ({"bands": 2}, "bands=2"), ({"context": -1}, "context=-1"), ({"gain": 0.0}, "gain=0.0")],
)
def test_a_config_that_cannot_work_is_refused(change, named):
    with pytest.raises(UserError, match=named):
        replace(SMALL, **change)


def test_what_does_not_fit_the_model_is_named():
    model, styled = _model(SMALL), _model(FORMS["style"])
    speakers = _model(FORMS["speakers_alone"])
    for call, named in (
        (lambda: model(torch.zeros(1, 80, 3)), "8 mel bands"),
        (lambda: model(torch.zeros(1, 8, 0)), "no frames"),
        (lambda: model(torch.full((1, 8, 2), math.nan)), "NaN"),
        (lambda: model.parallel(_mel(frames=5), _audio(frames=6)), "5 frames"),
        (lambda: model.parallel(None, _audio()), "none was given"),
        (lambda: model.parallel(_mel(), _audio().expand(1, 2, -1)), "one channel"),
        (lambda: model(_mel(2), rng=SampleRng(0)), "1 clips"),
        (lambda: model(_mel(), temperature=-1.0), "temperature=-1"),
        (lambda: model.stream(batch=2).push(_mel(1)), "stream of 2"),
        (lambda: styled(_mel()), "vector of 6"), (lambda: styled(_mel(), style=torch.zeros(1, 5)), r"\(1, 5\)"),
        (lambda: speakers(_mel()), "4 speakers"), (lambda: speakers(_mel(), style=torch.tensor([4])), "below 4"),
    ):
        with pytest.raises(UserError, match=named):
            call()
    stream = model.stream()
    stream.finish()
    with pytest.raises(ValueError, match="finished"):
        stream.push(_mel())
