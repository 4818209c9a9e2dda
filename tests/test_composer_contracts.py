"""What every learned composer of the TABLE promises, at sizes that take no time."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from sharding import assert_the_same_sharded

from audiogen.composers.event_grammar import accepts
from audiogen.composers.events import PREFIX, tokens_of
from audiogen.composers.grid import STEPS, bar_steps, sheet_of
from audiogen.composers.note_model import NoteModel, collate
from audiogen.composers.note_sampler import NoteSampling
from audiogen.composers.note_tasks import TASKS
from audiogen.composers.tunes import NoteDataset, rule_tunes
from audiogen.core.checkpoint import load_checkpoint, save_checkpoint
from audiogen.core.config import from_dict, to_dict
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Player, Prompt
from audiogen.core.registry import resolve, table
from audiogen.core.rng import SampleRng
from recipes.composer import presets

LEARNED = [name for name in table("composer") if issubclass(resolve("composer", name), NoteModel)]
# Each configuration that a family names is a model of its own; a family that names none is one as it is.
PRESETS = [name for family in LEARNED for name in resolve("composer", family).presets or (family,)]
# Fields that make a model small, whatever its family calls its sizes.
SMALL = {"embedding": 16, "width": 32, "layers": 2, "heads": 2, "memory": 11, "chunk": 7}


def small_config(name: str):
    family, config = presets()[name]
    if hasattr(config, "network"):
        config = dataclasses.replace(config, network=shrunk(config.network))
    return family, dataclasses.replace(shrunk(config), styles=("waltz", "folk"))


def shrunk(config):
    known = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{key: value for key, value in SMALL.items() if key in known})


@pytest.fixture(scope="module")
def models():
    built: dict[str, NoteModel] = {}

    def build(name: str) -> NoteModel:
        if name not in built:
            family, config = small_config(name)
            torch.manual_seed(0)
            model = resolve("composer", family)(config).eval()
            with torch.no_grad():  # the output of a fresh model is nearly flat: make it say something
                for parameter in model.parameters():
                    parameter += 0.05 * torch.randn_like(parameter)
            built[name] = model
        return built[name]

    return build


@pytest.fixture(scope="module")
def tunes():
    return rule_tunes(3, seed=1)


def batch_for(model: NoteModel, tunes, count: int = 2):
    data = NoteDataset(tunes, model.vocabulary, length=64, task=model.config.task)
    return collate([data[k] for k in range(count)])


@pytest.mark.parametrize("name", PRESETS)
def test_its_config_is_frozen_and_survives_json(name):
    _, config = presets()[name]
    assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config
    assert config.task in TASKS and isinstance(config.sampling, NoteSampling)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.task = "all"


@pytest.mark.parametrize("name", PRESETS)
def test_a_checkpoint_holds_all_of_it(models, tunes, tmp_path, name):
    model = models(name)
    save_checkpoint(tmp_path / "m", model, room="composer")
    loaded = load_checkpoint(tmp_path / "m", room="composer").model
    assert loaded.config == model.config
    batch = batch_for(model, tunes)
    with torch.inference_mode():
        first, second = (m(batch.tokens, batch.source, batch.source_lengths) for m in (model, loaded))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", PRESETS)
def test_gradients_reach_every_parameter(tunes, name):
    family, config = small_config(name)
    torch.manual_seed(0)
    model = resolve("composer", family)(config).train()
    batch = batch_for(model, tunes)
    for step in range(2):  # layers that begin at zero let gradients through once they have moved
        model.zero_grad()
        losses = model.loss(batch, SampleRng(0, step=step, ids=batch.ids))
        losses["loss"].backward()
        with torch.no_grad():
            for parameter in model.parameters() if step == 0 else ():
                parameter += 1e-2 * torch.randn_like(parameter)
    assert [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []


@pytest.mark.parametrize("name", PRESETS)
def test_it_learns_sharded_what_it_learns_whole(tunes, name):
    def build() -> Player:
        family, config = small_config(name)
        torch.manual_seed(0)
        model = resolve("composer", family)(config).train()
        return Player("model", model, model.loss)

    assert_the_same_sharded(build, batch_for(build().module, tunes))


@pytest.mark.parametrize("name", PRESETS)
def test_padding_does_not_train(models, tunes, name):
    model = models(name)
    batch = batch_for(model, tunes)
    longer = batch._replace(
        tokens=torch.nn.functional.pad(batch.tokens, (0, 7)),
        source=None if batch.source is None else torch.nn.functional.pad(batch.source, (0, 5)),
    )
    with torch.inference_mode():
        losses = [model.loss(b, SampleRng(0, ids=b.ids))["loss"] for b in (batch, longer)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_piece_by_piece_it_says_what_it_says_of_the_whole_and_no_token_sees_those_after_it(models, tunes, name):
    model = models(name)
    batch = batch_for(model, tunes)
    length = batch.tokens.shape[1]
    with torch.inference_mode():
        whole = model(batch.tokens, batch.source, batch.source_lengths)
        assert whole.shape == (2, length, model.vocabulary.size)
        state, parts, at = model.begin(2, batch.source, batch.source_lengths), [], 0
        for size in (5, 1, 1, 9, length):  # as a prompt and then token by token, and in one long piece
            logits, state = model.step(batch.tokens[:, at : at + size], state)
            parts.append(logits)
            at += size
            if at >= length:
                break
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-4)
        changed = batch.tokens.clone()
        changed[:, -1] = 5
        after = model(changed, batch.source, batch.source_lengths)
    torch.testing.assert_close(after[:, :-1], whole[:, :-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PRESETS)
def test_the_same_seed_is_the_same_score_whatever_torch_drew(models, name):
    model = models(name)
    prompt = Prompt(text="a waltz for piano", seconds=3)
    scores = []
    for chance, seed in ((1, 3), (2, 3), (3, 4)):
        torch.manual_seed(chance)
        scores.append(model.compose(prompt, seconds=3, rng=SampleRng(seed)))
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("text, key, metre, bpm", [
    ("a piano piece", "A minor", "3/4", 97.0), ("drums", None, "7/8", 143.0), ("cello", "F# major", "6/8", 61.5),
])
def test_what_the_prompt_names_is_kept(models, name, text, key, metre, bpm):
    model = models(name)
    score = model.compose(Prompt(text=text, key=key, metre=metre, bpm=bpm), seconds=4, rng=0)
    assert (score.metre, score.bpm) == (metre, bpm)
    if text == "drums":
        assert score.notes and all(note.drum == (note.instrument == "drum kit") for note in score.notes)
    else:
        assert score.key == key
        tonic = {"A minor": 9, "F# major": 6}[key]
        scale = {9: (0, 2, 3, 5, 7, 8, 9, 10, 11), 6: (0, 2, 4, 5, 7, 9, 11)}[tonic]
        written = [note for note in score.notes if not note.drum]
        assert written and all((note.pitch - tonic) % 12 in scale for note in written)
    bar_seconds = bar_steps(metre) / STEPS * 60 / bpm
    bars = score.seconds / bar_seconds
    assert score.seconds >= 4 - 1e-9 and bars == pytest.approx(round(bars)) and score.seconds < 4 + bar_seconds
    assert accepts(tokens_of(sheet_of(score), model.vocabulary), model.vocabulary)


@pytest.mark.parametrize("name", PRESETS)
def test_given_notes_stay_and_the_music_keeps_their_time(models, tunes, name):
    from audiogen.composers.grid import MELODY, parts_of, score_of

    model = models(name)
    given = score_of(tunes[0].sheet.cut(0, 3), bpm=101.0)
    score = model.compose(Prompt(text="piano", score=given), seconds=given.seconds + 6, rng=1)
    kept = set(given.notes)
    if model.config.task == "chords_to_melody":
        kept = {note for note, part in zip(given.notes, parts_of(given), strict=True) if part != MELODY}
    elif model.config.task == "melody_to_accompaniment":
        kept = {note for note, part in zip(given.notes, parts_of(given), strict=True) if part == MELODY}
    assert kept <= set(score.notes) and len(score.notes) > len(kept)
    assert (score.bpm, score.metre) == (101.0, given.metre)
    for note in score.notes:
        assert note.onset == pytest.approx(note.beat * 60 / 101, abs=1e-6)
    if model.config.task in ("all", "continuation"):
        assert score.seconds >= given.seconds + 6 - 1e-6
        assert model.compose(Prompt(score=given), seconds=given.seconds / 2, rng=1) == given
    with pytest.raises(UserError, match="metre 5/4 was asked for"):
        model.compose(Prompt(score=given, metre="5/4"), seconds=20, rng=1)


@pytest.mark.parametrize("name", PRESETS)
def test_what_it_cannot_write_is_one_clear_error(models, name):
    model = models(name)
    for prompt, seconds, said in (
        (Prompt(metre="31/32"), 4, "metre 31/32 is not known"), (Prompt(), 0, "seconds=0"), (Prompt(), 1e9, "seconds="),
    ):
        with pytest.raises(UserError, match=said) as caught:
            model.compose(prompt, seconds=seconds, rng=0)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PRESETS)
def test_losses_of_a_sequence_are_those_of_training(models, tunes, name):
    model = models(name)
    data = NoteDataset(tunes, model.vocabulary, length=64, task=model.config.task)
    item = data[0]
    nats = model.score_losses(item[1], item[2])
    assert nats.shape == (len(item[1]) - PREFIX,) and bool((nats > 0).all())
    batch = collate([item])
    with torch.inference_mode():
        logits = model(batch.tokens[:, :-1], batch.source, batch.source_lengths)
    first = torch.nn.functional.cross_entropy(logits[0, : PREFIX - 1], batch.tokens[0, 1:PREFIX], reduction="sum")
    whole = model.loss(batch, SampleRng(0))["loss"] * (len(item[1]) - 1)
    torch.testing.assert_close(nats.sum() + first, whole, rtol=1e-4, atol=1e-3)
