"""WaveNet as a generator: drawn as trained, however a clip is read; style and notes are heard; no vocoder is needed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_engine import load_words
from torch import Tensor

from audiogen.conditioning.labels import StyleVocabulary
from audiogen.conditioning.piano_roll import ROLL_DIM, piano_roll
from audiogen.core.audio import Audio
from audiogen.core.checkpoint import save_checkpoint
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition, Prompt
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.core.score import Note, Score
from audiogen.generators.networks.gated import GatedConfig
from audiogen.generators.task import GeneratorTask
from audiogen.generators.wavenet import BLOCK, WaveNetGenerator, WaveNetGeneratorConfig, WaveNetSampling
from audiogen.nn.wavenet import WaveNetStackConfig
from audiogen.nn.wavenet_outputs import mu_law_encode
from audiogen.pipeline import Engine

HOP = 16
SMALL = WaveNetGeneratorConfig(
    mel=MelFormat(sample_rate=8000, n_fft=64, win_length=64, hop_length=HOP, n_mels=8, f_max=4000.0),
    network=WaveNetStackConfig(
        output="softmax", classes=32, layers=5, cycle=5, channels=16, gate_channels=16, skip_channels=16
    ),
    context=GatedConfig(width=16, depth=2, modulation=16, means=(), bands=1), local_dim=8, vector_dim=6,
)
FORMS = {
    "softmax": SMALL,
    "logistics": replace(SMALL, network=replace(SMALL.network, output="logistics", mixtures=3)),
    "gaussian": replace(SMALL, network=replace(SMALL.network, output="gaussian")),
    "by style alone": replace(SMALL, local_dim=0),
}
every_form = pytest.mark.parametrize("form", FORMS)


def made(config: WaveNetGeneratorConfig) -> WaveNetGenerator:
    """Untrained, but no route is silent: each is heard."""
    torch.manual_seed(0)
    model = WaveNetGenerator(config).eval()
    if model.context is not None:
        torch.nn.init.normal_(model.context.out.weight, std=0.3)
    with torch.no_grad():
        last = model.stack.last_conv_layers[3]
        last.weight.mul_(0.5)
        if config.network.output != "softmax":  # narrow, away from -1 and 1
            last.bias[2 * len(last.bias) // 3 if config.network.output == "logistics" else 1 :] -= 3.0
    return model


def condition(frames: int, batch: int = 2) -> Condition:
    source = torch.Generator().manual_seed(1)
    vector = F.normalize(torch.randn(batch, 6, generator=source), dim=1)
    return Condition(vector=vector, aligned=(torch.rand(batch, ROLL_DIM, frames, generator=source) < 0.05).float())


def rng(*ids: int) -> SampleRng:
    return SampleRng(3, ids=ids)


def test_what_is_drawn_is_what_the_trained_likelihood_says():
    """All at once, the network says of every sample of a clip what it was drawn from; with the clip's own random
    numbers that gives the clip again. A condition that came a sample too late would show."""
    model, frames = made(SMALL).double(), 12
    asked = condition(frames)
    asked = Condition(vector=asked.vector.double(), aligned=asked.aligned.double())
    audio = model.sample(asked, frames, rng=rng(5, 6), sampling=WaveNetSampling(temperature=1.0))
    heard = model.stack.heard(audio.double())
    with torch.no_grad():
        whole = model.complete(asked, 2, frames)
        parameters = model.stack.teacher_forced(heard, model.local(whole), model.style(whole))
    uniform = rng(5, 6).fork("samples").tape_rand(1, 0, frames * HOP).double()  # (batch, 1, time)
    codes = (parameters.softmax(1).cumsum(1) <= uniform).sum(1)
    assert torch.equal(codes, mu_law_encode(heard, 32))
    assert len(codes.unique()) > 10


@every_form
def test_a_clip_is_the_same_however_it_is_read_and_goes_on_where_it_was_saved(form):
    model, frames = made(FORMS[form]), 2 * BLOCK + 9
    asked = condition(frames)
    whole = model.sample(asked, frames, rng=rng(5, 6))
    assert whole.shape == (2, 1, frames * HOP) and whole.std() > 0.01
    stream = model.stream(asked, frames, rng=rng(5, 6))
    pieces = [stream.read(count) for count in (1, 0, BLOCK + 3)]
    saved = stream.save()
    pieces.append(stream.read(1000))  # what is left
    assert torch.equal(torch.cat(pieces, 2), whole)
    assert stream.read(1).shape == (2, 1, 0)
    second = model.stream(asked, frames, rng=rng(5, 6))
    second.restore(saved)
    assert torch.equal(second.read(frames), pieces[-1])
    with pytest.raises(UserError, match="another model's"):
        model.stream(condition(frames, 1), frames, rng=rng(5)).restore(saved)


@every_form
def test_a_clip_alone_is_the_clip_in_a_batch(form):
    model, frames = made(FORMS[form]), 10
    asked = condition(frames)
    alone = Condition(vector=asked.vector[1:], aligned=asked.aligned[1:])
    assert torch.equal(model.sample(alone, frames, rng=rng(6)), model.sample(asked, frames, rng=rng(5, 6))[1:])


def test_notes_are_heard_where_there_is_a_context_and_nowhere_else():
    for config, heard in ((SMALL, True), (FORMS["by style alone"], False)):
        model, asked = made(config), condition(12)
        other = asked._replace(aligned=1 - asked.aligned)
        same = torch.equal(model.sample(asked, 12, rng=rng(5, 6)), model.sample(other, 12, rng=rng(5, 6)))
        assert same != heard
        another = asked._replace(vector=-asked.vector)
        assert not torch.equal(model.sample(asked, 12, rng=rng(5, 6)), model.sample(another, 12, rng=rng(5, 6)))


def test_temperature_and_precision_reach_the_kernel():
    model, asked = made(FORMS["gaussian"]), condition(12)

    def draw(*ids: int, **chosen) -> Tensor:
        return model.sample(asked, 12, rng=rng(*ids), sampling=WaveNetSampling(**chosen))

    assert torch.equal(draw(5, 6, temperature=0.0), draw(7, 8, temperature=0.0))  # nothing is drawn
    assert not torch.equal(draw(5, 6), draw(7, 8))
    clips = {precision: draw(5, 6, precision=precision) for precision in ("float32", "bfloat16", "int8")}
    assert not torch.equal(clips["float32"], clips["bfloat16"]) and not torch.equal(clips["float32"], clips["int8"])
    for clip in clips.values():  # rounded weights, the same random numbers: alike at first
        torch.testing.assert_close(clip[:, :, :4], clips["float32"][:, :, :4], atol=0.05, rtol=0)


def test_neighbouring_codes_begin_alike_read_and_drawn():
    torch.manual_seed(0)
    stack = WaveNetGenerator(replace(SMALL, network=replace(SMALL.network, classes=256))).stack
    for rows in (stack.first_conv.weight[:, :, 0].T, stack.last_conv_layers[3].weight[:, :, 0]):  # one for each code
        near, far = ((rows[shift:] - rows[:-shift]).norm(dim=1).mean() for shift in (1, 60))
        assert near < 0.2 * far


def test_padding_does_not_train_and_the_loss_is_the_mean_over_clips_of_what_sounds():
    model = made(replace(SMALL, drop_vector=0.0, drop_aligned=0.0))
    audio = 0.3 * torch.randn(2, 1, 10 * HOP, generator=torch.Generator().manual_seed(2))
    batch = Batch(audio, None, torch.tensor([10, 7]), condition(10), torch.tensor([0, 1]))
    losses = model.loss(batch, rng(0, 1))
    spoiled = audio.clone()
    spoiled[1, :, 7 * HOP :] = 0.9
    assert torch.equal(model.loss(batch._replace(audio=spoiled), rng(0, 1))["loss"], losses["loss"])
    with torch.no_grad():
        whole = model.complete(batch.condition, 2, 10)
        parameters = model.stack.teacher_forced(audio[:, 0], model.local(whole), model.style(whole))
    nats = F.cross_entropy(parameters, mu_law_encode(audio[:, 0], 32), reduction="none")
    mean = (nats[0].mean() + nats[1, : 7 * HOP].mean()) / 2
    torch.testing.assert_close(losses["loss"], mean)
    torch.testing.assert_close(losses["bits"], mean / torch.tensor(2.0).log())


def test_it_learns_pitch_from_the_notes_and_sound_from_the_style():
    """Square waves of 500 Hz and 800 Hz, one note after the other; one style is loud, the other soft. In the second
    half of a clip its past says the wrong pitch: the notes must be heard."""
    frames, pitches, hertz, loud = 24, (60, 70), torch.tensor([500.0, 800.0]), torch.tensor([0.5, 0.1])
    tunes, styles = torch.tensor([[0, 1], [1, 0], [0, 1], [1, 0]]), torch.tensor([0, 0, 1, 1])
    half = frames / 2 / SMALL.mel.frame_rate  # seconds
    scores = [Score((Note(0.0, half, pitches[a]), Note(half, half, pitches[b]))) for a, b in tunes.tolist()]
    rolls = torch.stack([piano_roll(score, frames, frame_rate=SMALL.mel.frame_rate) for score in scores])
    asked = Condition(vector=torch.eye(6)[styles], aligned=rolls)
    turns = (hertz[tunes].repeat_interleave(frames * HOP // 2, 1) / 8000).cumsum(1)
    source, steps = torch.Generator().manual_seed(4), 150
    model = made(replace(SMALL, drop_vector=0.0, drop_aligned=0.0)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        phase = torch.rand(4, 1, generator=source)
        audio = torch.where((turns + phase) % 1 < 0.5, 1.0, -1.0) * loud[styles, None]
        batch = Batch(audio[:, None], None, torch.full((4,), frames), asked, torch.arange(4))
        loss = model.loss(batch, SampleRng(0, step=step, ids=range(4)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clips = model.eval().sample(asked, frames, rng=SampleRng(0, ids=range(4)))[:, 0]
    halves = torch.fft.rfft(clips.unflatten(1, (2, -1)), n=4000).abs()  # 2 Hz a bin
    assert (2.0 * halves.argmax(2) - hertz[tunes]).abs().max() < 60
    torch.testing.assert_close(clips.abs().median(1).values, loud[styles], rtol=0.2, atol=0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A bare generator, as a training leaves it."""
    vocabulary = StyleVocabulary(("grand piano", "rain"), load_words())
    folder = tmp_path_factory.mktemp("run") / "model"
    labels = {"vocabulary": vocabulary.to_dict(), "played": ["grand piano"]}
    save_checkpoint(folder, made(replace(SMALL, vector_dim=vocabulary.dim)), room="generator", labels=labels)
    return folder


def test_an_engine_of_it_has_no_vocoder_and_needs_none(checkpoint, tmp_path):
    engine = Engine.from_pretrained(checkpoint)
    assert engine.vocoder is None and set(engine.hashes) == {"generator", "words"}
    clip = engine.generate(Prompt(text="rain", seconds=0.21), seed=4, temperature=0.8, precision="int8")
    assert clip.samples.shape == (1, 1680) and clip.sample_rate == 8000 and clip.samples.abs().max() > 0.01
    assert clip.made_by["sampling"] == {"temperature": 0.8, "precision": "int8"}
    clip.save(tmp_path / "clip.wav")
    assert torch.equal(engine.again(Audio.read(tmp_path / "clip.wav").made_by).samples, clip.samples)
    piano = [engine.generate(Prompt(text="grand piano", bpm=120, seconds=0.3), seed=seed).samples for seed in (1, 1, 2)]
    assert torch.equal(piano[0], piano[1]) and not torch.equal(piano[0], piano[2])


def test_what_it_cannot_do_is_one_clear_error(checkpoint):
    engine = Engine.from_pretrained(checkpoint)
    with pytest.raises(UserError, match="makes audio, not mels"):
        engine.generate_mel("rain")
    with pytest.raises(UserError, match="makes audio, and has no vocoder"):
        engine.vocode(Audio(torch.zeros(1, 800), 8000))
    with pytest.raises(UserError, match="makes audio itself: leave the vocoder away"):
        Engine.from_pretrained(checkpoint, vocoder=checkpoint)
    with pytest.raises(UserError, match="no steps to choose; it has precision, temperature"):
        engine.generate("rain", steps=4)
    with pytest.raises(UserError, match="temperature=-1"):
        engine.generate("rain", temperature=-1.0)
    with pytest.raises(UserError, match="precision='float16' must be one of"):
        engine.generate("rain", precision="float16")
    with pytest.raises(UserError, match="local_dim=-1"):
        replace(SMALL, local_dim=-1)


def test_a_demo_is_heard_and_seen(tmp_path):
    model = made(SMALL)
    asked = condition(20, batch=1)
    GeneratorTask(model, demos=[("a", asked, 20)]).demo(model, tmp_path, 7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.wav"]
    heard = Audio.read(tmp_path / "a.wav")
    drawn = model.sample(asked, 20, rng=SampleRng(0, ids=[0], stream="demo"))[0]
    assert heard.sample_rate == 8000
    torch.testing.assert_close(heard.samples, drawn, atol=1e-4, rtol=0)
