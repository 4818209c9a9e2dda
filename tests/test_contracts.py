"""What every entry of every TABLE promises; a new model gets these tests by its line in the table."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sharding import assert_the_same_sharded
from torch import nn

from audiogen.core.checkpoint import load_checkpoint, save_checkpoint
from audiogen.core.config import from_dict, to_dict
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition, Player
from audiogen.core.mel_format import MelFormat
from audiogen.core.registry import ROOMS, name_of, resolve, table
from audiogen.core.rng import SampleRng
from audiogen.training.config import TrainConfig
from audiogen.training.steps import halves
from audiogen.training.updates import updates_for
from vocoders.gan import GANConfig, VocoderTask
from vocoders.streaming import lookahead_seconds, open_stream

ENTRIES = [(room, name) for room in ROOMS for name in table(room)]
MODELS = [(room, name) for room, name in ENTRIES if room in ("generator", "vocoder")]
VOCODERS = [name for room, name in MODELS if room == "vocoder"]
GENERATORS = [name for room, name in MODELS if room == "generator"]


@pytest.mark.parametrize("room, name", ENTRIES)
def test_the_entry_leads_to_something_that_says_what_it_is_and_back(room, name):
    target = resolve(room, name)
    assert inspect.getdoc(target) and inspect.getdoc(inspect.getmodule(target))
    assert name_of(room, target) == name


@pytest.mark.parametrize("room, name", MODELS)
def test_its_config_is_frozen_has_a_mel_format_and_survives_json(room, name):
    kind = resolve(room, name).config_type
    config = kind()
    assert dataclasses.is_dataclass(config) and isinstance(config.mel, MelFormat)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.mel = None
    assert from_dict(kind, json.loads(json.dumps(to_dict(config)))) == config


@pytest.fixture(scope="module")
def model():
    built: dict[tuple[str, str], nn.Module] = {}

    def build(room: str, name: str) -> nn.Module:
        if (room, name) not in built:
            torch.manual_seed(0)
            cls = resolve(room, name)
            built[room, name] = cls(cls.config_type()).eval()
        return built[room, name]

    return build


@pytest.mark.parametrize("room, name", MODELS)
def test_a_checkpoint_holds_all_of_it(model, tmp_path, room, name):
    made = model(room, name)
    save_checkpoint(tmp_path / "m", made, room=room)
    loaded = load_checkpoint(tmp_path / "m", room=room)
    assert loaded.model.config == made.config and loaded.mel == made.config.mel
    for key, value in made.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value), key


@pytest.mark.parametrize("name", VOCODERS)
@pytest.mark.parametrize("frames", [1, 7, 40])
def test_a_vocoder_makes_hop_length_samples_a_frame(model, name, frames):
    vocoder = model("vocoder", name)
    mel = torch.randn(2, vocoder.config.mel.n_mels, frames, generator=torch.Generator().manual_seed(0)) - 5
    with torch.inference_mode():
        audio = vocoder(mel, rng=SampleRng(0, ids=[0, 1]))
    assert audio.shape == (2, 1, frames * vocoder.config.mel.hop_length) and audio.dtype == torch.float32
    assert torch.isfinite(audio).all()


@pytest.mark.parametrize("name", VOCODERS)
def test_a_vocoder_draws_only_from_its_rng(model, name):
    vocoder = model("vocoder", name)
    mel = torch.randn(1, vocoder.config.mel.n_mels, 6, generator=torch.Generator().manual_seed(0)) - 5
    with torch.inference_mode():
        torch.manual_seed(1)
        first = vocoder(mel, rng=SampleRng(3, ids=[5]))
        torch.manual_seed(2)
        second = vocoder(mel, rng=SampleRng(3, ids=[5]))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", VOCODERS)
@pytest.mark.parametrize("bad, said", [
    (lambda n: torch.zeros(n, 5), "shape"), (lambda n: torch.zeros(1, n + 1, 5), "mel bands.*has"),
    (lambda n: torch.zeros(1, n, 0), "no frames"), (lambda n: torch.full((1, n, 3), float("nan")), "NaN"),
    (lambda n: torch.full((1, n, 3), float("-inf")), "infinite"),
])
def test_a_vocoder_refuses_what_is_no_mel_of_its_format(model, name, bad, said):
    vocoder = model("vocoder", name)
    with pytest.raises(UserError, match=said) as caught:
        vocoder(bad(vocoder.config.mel.n_mels))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", VOCODERS)
def test_a_vocoder_renders_in_chunks_what_it_renders_whole_or_says_that_it_cannot(model, name):
    vocoder = model("vocoder", name)
    if vocoder.context_frames is None and not hasattr(vocoder, "stream"):
        with pytest.raises(UserError, match=f"{name} needs the whole clip"):
            open_stream(vocoder)
        return
    own = hasattr(vocoder, "stream")  # a model with a state is not asked for more than a few frames: it is slow
    frames = 12 if own else min(2 * vocoder.context_frames + 7, 60)
    hop_length = vocoder.config.mel.hop_length
    mel = torch.randn(2, vocoder.config.mel.n_mels, frames, generator=torch.Generator().manual_seed(0)) - 5
    with torch.inference_mode():
        whole = vocoder(mel, rng=SampleRng(3, ids=[0, 1]))
    ahead = lookahead_seconds(vocoder) * vocoder.config.mel.frame_rate
    for size in (5, frames // 2 + 1):
        stream = open_stream(vocoder, batch=2, rng=SampleRng(3, ids=[0, 1]))
        pieces, pushed = [], 0
        for chunk in mel.split(size, 2):
            pieces.append(stream.push(chunk))
            pushed += chunk.shape[2]
            assert sum(piece.shape[2] for piece in pieces) <= max(0, pushed - round(ahead)) * hop_length
        together = torch.cat([*pieces, stream.finish()], 2)
        assert together.shape == whole.shape
        torch.testing.assert_close(together, whole, rtol=0, atol=1e-6 if own else 1e-5)


# ------------------------------------------------------------------------- generators

FRAMES = 24


def conditions(model: nn.Module, batch: int = 2) -> Condition:
    """A style and a few notes for every sample, drawn anew for each."""
    config, source = model.config, torch.Generator().manual_seed(1)
    aligned = torch.zeros(batch, config.aligned_dim, FRAMES)
    aligned[:, 40, 4:12] = aligned[:, 44, 12:20] = 0.6
    aligned[:, -1] = 1
    return Condition(vector=torch.randn(batch, config.vector_dim, generator=source), aligned=aligned)


def drawn(model: nn.Module, condition: Condition, ids=(5, 6), seed: int = 3) -> torch.Tensor:
    with torch.inference_mode():
        return model.sample(condition, FRAMES, rng=SampleRng(seed, ids=ids))


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_draws_what_it_is_asked_from_its_rng_alone(model, name):
    generator = model("generator", name)
    condition = conditions(generator)
    torch.manual_seed(1)
    first = drawn(generator, condition)
    torch.manual_seed(2)
    assert torch.equal(first, drawn(generator, condition))
    rows, columns = generator.config.mel.n_mels, FRAMES
    if generator.makes == "audio":
        rows, columns = 1, FRAMES * generator.config.mel.hop_length
    assert first.shape == (2, rows, columns) and first.dtype == torch.float32 and torch.isfinite(first).all()
    assert not torch.equal(first[0], first[1])
    assert drawn(generator, Condition()).shape == first.shape  # a route that is absent is no error


@pytest.mark.parametrize("name", GENERATORS)
def test_a_clip_of_a_generator_does_not_depend_on_its_batch(model, name):
    generator = model("generator", name)
    condition = conditions(generator)
    alone = Condition(vector=condition.vector[1:], aligned=condition.aligned[1:])
    together = drawn(generator, condition)[1:]
    torch.testing.assert_close(drawn(generator, alone, ids=[6]), together, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_refuses_a_condition_of_another_shape(model, name):
    generator = model("generator", name)
    good = conditions(generator)
    for bad in (good._replace(vector=good.vector[:, 1:]), good._replace(aligned=good.aligned[:, :, 1:])):
        with pytest.raises(ValueError, match="condition: vector"):
            drawn(generator, bad)


def learner(name: str, lengths: tuple[int, ...]) -> tuple[nn.Module, list[Player], Batch]:
    """A generator that is to be trained, its players, and a batch of clips of so many frames."""
    cls = resolve("generator", name)
    torch.manual_seed(0)
    generator = cls(cls.config_type()).train()
    mel = torch.randn(len(lengths), generator.config.mel.n_mels, FRAMES) - 5
    audio = 0.1 * torch.randn(len(lengths), 1, FRAMES * generator.config.mel.hop_length)
    batch = Batch(audio, mel, torch.tensor(lengths), conditions(generator, len(lengths)), torch.arange(len(lengths)))
    return generator, cls.task_type(generator).players(), batch


@pytest.mark.parametrize("name", GENERATORS)
def test_gradients_reach_every_parameter_that_a_generator_trains(name):
    # Some lose a condition, as in training, but not all of six.
    _, players, batch = learner(name, (*[FRAMES] * 5, FRAMES - 3))
    for player in players:
        for step in range(2):  # layers that begin at zero let gradients through once they have moved
            losses = player.loss(batch, SampleRng(0, step=step, ids=batch.ids))
            losses["loss"].backward()
            with torch.no_grad():
                for parameter in player.module.parameters():
                    if step == 0 and parameter.grad is not None:
                        parameter += 1e-2 * torch.randn_like(parameter)
                        parameter.grad = None
        learns = {key: value for key, value in player.module.named_parameters() if value.requires_grad}
        assert learns
        assert [key for key, value in learns.items() if value.grad is None or not value.grad.any()] == []
        player.module.zero_grad()


@pytest.mark.parametrize("name", GENERATORS)
def test_what_stands_in_the_padding_neither_trains_a_generator_nor_leaks(name):
    found = []
    for garbage in (0.0, 7.0):
        generator, players, batch = learner(name, (FRAMES, 11, 0))  # 0: a file that could not be read
        hop_length = generator.config.mel.hop_length
        for index, length in enumerate(batch.lengths.tolist()):
            batch.mel[index, :, length:], batch.audio[index, :, length * hop_length :] = garbage - 5, 0.1 * garbage
        for player in players:
            player.loss(batch, SampleRng(0, ids=batch.ids))["loss"].backward()
        found.append({key: value.grad for key, value in generator.named_parameters() if value.grad is not None}
                     | dict(generator.named_buffers()))
    for key, value in found[0].items():
        assert torch.isfinite(value).all(), key
        torch.testing.assert_close(value, found[1][key], rtol=1e-4, atol=1e-6, msg=key)


# Families that look at the batch as a whole: an autoencoder's free bits are granted to its mean, and the codes of a
# codec's book move with it.
WHOLE_BATCH = ("autoencoder", "mel_codec")


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_learns_from_a_batch_what_it_learns_from_its_halves(name):
    """So that micro-batches, processes and what halves when memory runs out change nothing but memory."""
    found = []
    for parts in (1, 2):
        _, players, batch = learner(name, (FRAMES, 11, FRAMES, 7))
        losses, gradients = torch.zeros(()), []
        for player in players:
            player.module.zero_grad()
            for part in [batch] if parts == 1 else halves(batch):
                loss = player.loss(part, SampleRng(0, ids=part.ids))["loss"] / parts
                loss.backward()
                losses = losses + loss.detach()
            gradients += [p.grad.flatten().clone() for p in player.module.parameters() if p.grad is not None]
        found.append((losses, torch.cat(gradients)))
    (whole, gradient), (parted, other) = found
    same = float((gradient - other).norm() / gradient.norm()) < 1e-4 and torch.allclose(parted, whole, rtol=1e-5)
    assert same == (name not in WHOLE_BATCH)


@pytest.mark.parametrize("room, name", MODELS)
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view")  # which nothing changes in place
def test_a_model_of_one_player_learns_sharded_what_it_learns_whole_and_others_are_refused(room, name):
    """FSDP2 gathers a block's weights when it is called: a model that reaches into one past its call would not work."""
    def build() -> tuple[list[Player], Batch]:
        if room == "generator":
            return learner(name, (FRAMES, 11))[1:]
        cls = resolve(room, name)
        torch.manual_seed(0)
        vocoder = cls(cls.config_type()).train()
        mel = torch.randn(2, vocoder.config.mel.n_mels, 8) - 5
        audio = 0.1 * torch.randn(2, 1, 8 * vocoder.config.mel.hop_length)
        batch = Batch(audio, mel, torch.tensor([8, 8]), Condition(), torch.arange(2))
        return VocoderTask(vocoder, GANConfig()).players(), batch

    players, batch = build()
    if len(players) > 1:
        sharding = SimpleNamespace(distributed_type=SimpleNamespace(value="FSDP"))
        with pytest.raises(UserError, match=r"look into each other: run it under DDP"):
            updates_for(sharding, TrainConfig(run=Path("run")), players, bool)
        return
    assert_the_same_sharded(lambda: build()[0][0], batch)
