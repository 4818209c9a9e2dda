"""Styles read from prompts: held-out words, mixes, explicit styles, and vectors that keep the styles apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import audiogen
from audiogen.conditioning.labels import ALIASES, DESCRIPTIONS, StyleVocabulary, spread
from audiogen.conditioning.text import WordVectors, tokenize
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt

HERE = Path(__file__).parent
STYLES = tuple(DESCRIPTIONS)


@pytest.fixture(scope="module")
def words() -> WordVectors:
    return WordVectors.load(Path(audiogen.__file__).parent / "pretrained" / "default" / "words.safetensors")


@pytest.fixture(scope="module")
def styles(words) -> StyleVocabulary:
    return StyleVocabulary(STYLES, words)


def held_out() -> list[tuple[str, set[str]]]:
    lines = (HERE / "held_out_prompts.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return [(prompt, set(wanted.split("|"))) for prompt, wanted in rows]


def test_held_out_prompts_are_held_out():
    described = [" ".join(tokenize(p)) for name, text in DESCRIPTIONS.items() for p in [name, *text.split(",")]]
    vocabulary = {word for phrase in described for word in phrase.split()}
    assert not [prompt for prompt, _ in held_out() if " ".join(tokenize(prompt)) in described]
    new = [prompt for prompt, _ in held_out() if set(tokenize(prompt)) - vocabulary]
    assert len(new) >= 60, "at least 60 prompts hold a word that no name or description contains"
    assert all(wanted <= set(STYLES) for _, wanted in held_out())


def test_held_out_words_find_their_style(words):
    styles = StyleVocabulary(STYLES, words, aliases={})  # by meaning alone
    readings = [(prompt, wanted, styles.read(Prompt(text=prompt))) for prompt, wanted in held_out()]
    right = [reading.known and next(iter(reading.weights)) in wanted for _, wanted, reading in readings]
    assert sum(right) / len(right) >= FLOOR, [row[0] for row, good in zip(readings, right, strict=True) if not good]


def test_aliases_name_styles_and_count_word_for_word(styles, words):
    assert set(ALIASES) <= set(STYLES)
    for style, names in ALIASES.items():
        for name in names.split(", "):
            assert next(iter(styles.read(Prompt(text=f"slow {name}")).weights)) == style, name
            assert styles.resolve(name) == style


FLOOR = 0.78  # of the held-out prompts


@pytest.mark.parametrize("prompt", (HERE / "unknown_prompts.txt").read_text(encoding="utf-8").splitlines())
def test_prompts_about_no_sound_are_not_read_as_known(styles, prompt):
    reading = styles.read(Prompt(text=prompt))
    assert not reading.known
    assert len(reading.nearest) == 3 and sum(reading.weights.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_reads_its_own_name_whatever_is_said_beside_it(styles, style):
    for text in (style, f"slow {style.upper()}, melancholic", f"a beautiful {style} in A minor, 90 bpm"):
        reading = styles.read(Prompt(text=text))
        assert reading.known and next(iter(reading.weights)) == style, (text, reading)
        assert reading.weights[style] > 0.6


@pytest.mark.parametrize("asked", [("cello", "rain"), ("flute", "banjo"), ("grand piano", "sea waves", "sitar")])
def test_several_styles_named_are_mixed_in_equal_parts(styles, asked):
    weights = styles.read(Prompt(text=" and ".join(asked))).weights
    assert sum(weights.values()) == pytest.approx(1.0)
    for style in asked:
        assert weights[style] == pytest.approx(1 / len(asked), abs=0.12)


def test_negative_has_its_own_weights(styles):
    reading = styles.read(Prompt(text="cello", negative="rain"))
    assert next(iter(reading.weights)) == "cello" and next(iter(reading.negative)) == "rain"
    assert styles.read(Prompt(text="cello", negative="income tax")).negative == {}
    assert styles.read(Prompt(text="cello")).negative == {}


def test_explicit_styles_win_and_are_shared_out(styles):
    reading = styles.read(Prompt(text="rain", styles=(("Grand Piano", 3.0), ("cello", 1.0))))
    assert reading.weights == {"grand piano": 0.75, "cello": 0.25} and reading.known


@pytest.mark.parametrize(("name", "style"), [
    ("piano", "grand piano"), ("CELLOS", "cello"), ("tr-808 DRUMS", "TR-808 drums"), ("violins", "violin section"),
    ("fiddle", "violin section"), ("saxaphone", "saxophone"), ("organ", "drawbar organ"), ("fire", "crackling fire"),
])
def test_other_names_of_a_style(styles, name, style):
    assert styles.resolve(name) == style


@pytest.mark.parametrize("name", ["marimbula tax", "xkcdq", "", "income tax"])
def test_unknown_style_lists_the_known_ones(styles, name):
    with pytest.raises(UserError, match="known: ") as error:
        styles.read(Prompt(styles=((name, 1.0),)))
    assert all(style in str(error.value) for style in STYLES) and "\n" not in str(error.value)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_must_be_positive(styles, weight):
    with pytest.raises(UserError, match="weight"):
        styles.read(Prompt(styles=(("cello", weight),)))


def test_vectors_keep_the_styles_apart(styles):
    assert styles.condition_number < 1.01
    torch.testing.assert_close(styles.vectors @ styles.vectors.T, torch.eye(len(STYLES)), atol=1e-5, rtol=0)
    mix = styles.vector({"cello": 0.7, "rain": 0.3})
    torch.testing.assert_close(mix, 0.7 * styles.vector({"cello": 1.0}) + 0.3 * styles.vector({"rain": 1.0}))
    assert not styles.vector({}).any() and styles.vector({}).shape == (styles.dim,)


def test_spread_changes_as_little_as_can_be():
    means = torch.nn.functional.normalize(torch.randn(4, 9, generator=torch.Generator().manual_seed(0)) + 0.5, dim=-1)
    mine = spread(means)
    other = torch.linalg.qr(means.T).Q.T  # Gram-Schmidt, also orthonormal (up to signs)
    other = other * (other * means).sum(-1, keepdim=True).sign()
    torch.testing.assert_close(mine @ mine.T, torch.eye(4), atol=1e-5, rtol=0)
    assert (mine - means).norm() < (other - means).norm()


def test_a_checkpoint_keeps_its_own_vectors(styles, words):
    values = json.loads(json.dumps(styles.to_dict()))
    back = StyleVocabulary.from_dict(values, words)
    torch.testing.assert_close(back.vectors, styles.vectors, atol=1e-6, rtol=0)
    assert back.names == styles.names
    assert back.read(Prompt(text="sad fiddle")) == styles.read(Prompt(text="sad fiddle"))


@pytest.mark.parametrize("values", [{}, {"styles": ["a"], "descriptions": {}, "vectors": [[1.0], [2.0]]}])
def test_corrupt_labels_are_refused(words, values):
    with pytest.raises(UserError, match="styl"):
        StyleVocabulary.from_dict(values, words)


def test_a_users_own_styles_need_no_description(words):
    own = StyleVocabulary(["door", "dog", "trumpet", "xkcdq 7"], words)
    assert next(iter(own.read(Prompt(text="barking puppy")).weights)) == "dog"
    assert own.read(Prompt(text="trumpeter")).weights["trumpet"] > 0.9
    assert own.resolve("XKCDQ 7") == "xkcdq 7"
    assert own.condition_number < 1e6
