"""Word vectors: a tiny space made by hand, where every mean and every look-up can be said beforehand."""

from __future__ import annotations

import pytest
import torch

from audiogen.conditioning.text import WordVectors, stems, tokenize, zipf_weight
from audiogen.core.errors import UserError

WORDS = ["the", "drum", "loop", "cello", "electric", "piano", "electric piano", "strum", "melody", "saxophone", "lofi"]


@pytest.fixture()
def words() -> WordVectors:
    weights = torch.ones(len(WORDS))
    weights[WORDS.index("drum")] = 0.5
    return WordVectors(WORDS, torch.eye(len(WORDS)), weights, about={"source": "by hand"})


def axis(word: str) -> torch.Tensor:
    return torch.eye(len(WORDS))[WORDS.index(word)]


@pytest.mark.parametrize(("text", "tokens"), [
    ("Slow, CELLO!", ["slow", "cello"]), ("Flûte — violín", ["flute", "violin"]), ("lo-fi", ["lo", "fi"]),
    ("the cello's song", ["the", "cello", "song"]), ("  \n\t", []), ("ピアノ", ["ヒアノ"]),
    ("ＦＵＬＬ", ["full"]), ("🎹", []),
])
def test_tokens(text, tokens):
    assert tokenize(text) == tokens


@pytest.mark.parametrize(("text", "word"), [
    ("CELLO", "cello"), ("cellos", "cello"), ("cellist", "cello"), ("strumming", "strum"), ("melodies", "melody"),
    ("drummer", "drum"), ("the cello", "cello"), ("saxaphone", "saxophone"), ("saxophnoe", "saxophone"),
    ("electric pianos", "electric piano"),
])
def test_other_forms_find_their_word(words, text, word):
    phrases = words.embed_phrases(text)
    torch.testing.assert_close(phrases[-1 if " " not in text else max(
        range(len(phrases)), key=lambda i: phrases[i].end - phrases[i].start)].vector, axis(word))


def test_compound_is_the_weighted_mean_of_its_halves(words):
    expected = torch.nn.functional.normalize(0.5 * axis("drum") + axis("loop"), dim=0)
    torch.testing.assert_close(words.embed("drumloop"), expected)
    torch.testing.assert_close(words.embed("drum loop"), expected)


def test_a_phrase_has_its_own_vector_and_its_words_theirs(words):
    found = {phrase.text: phrase for phrase in words.embed_phrases("soft electric piano, lo-fi")}
    assert set(found) == {"electric", "piano", "electric piano", "lo fi"}
    torch.testing.assert_close(found["electric piano"].vector, axis("electric piano"))
    torch.testing.assert_close(found["lo fi"].vector, axis("lofi"))
    assert found["electric piano"].whole and (found["electric piano"].start, found["electric piano"].end) == (1, 3)


@pytest.mark.parametrize("text", ["", "   ", "!!!", "qwrtz xkcdq", "ピアノ", "the of and", "90 6/8 !"])
def test_nothing_known_is_zeros_and_says_so(words, text):
    read = words.read(text)
    assert not read.known and not read.phrases
    assert torch.equal(read.vector, torch.zeros(words.dim)) and read.vector.dtype == torch.float32


def test_unknown_words_are_reported_once_and_stop_words_never(words):
    assert words.read("the cello and xkcdq, xkcdq of 1999").unknown == ("xkcdq",)


def test_what_is_embedded_has_unit_length(words):
    for text in ("cello", "drum cello", "electric piano with drum loop"):
        assert float(words.embed(text).norm()) == pytest.approx(1.0, abs=1e-6)


def test_very_long_text_is_cut(words):
    assert len(words.embed_phrases("cello " * 100_000)) < 1000


def test_saved_and_loaded_is_the_same(words, tmp_path):
    generator = torch.Generator().manual_seed(0)
    mine = WordVectors(WORDS, torch.randn(len(WORDS), 9, generator=generator), torch.rand(len(WORDS)))
    mine.save(tmp_path / "words.safetensors")
    back = WordVectors.load(tmp_path / "words.safetensors")
    assert back.words == WORDS and torch.equal(back.quantised, mine.quantised)
    assert torch.equal(back.embed("drum cello"), mine.embed("drum cello"))
    words.save(tmp_path / "words.safetensors")
    assert WordVectors.load(tmp_path / "words.safetensors").about == {"source": "by hand"}


def test_int8_keeps_directions(tmp_path):
    vectors = torch.randn(50, 96, generator=torch.Generator().manual_seed(1))
    mine = WordVectors([f"word{i}" for i in range(50)], vectors, torch.ones(50))
    cosine = torch.stack([mine[f"word{i}"] @ torch.nn.functional.normalize(vectors[i], dim=0) for i in range(50)])
    assert cosine.min() > 0.999


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", None])
def test_missing_or_corrupt_file_is_one_clear_line(tmp_path, content):
    path = tmp_path / "words.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="no word vectors") as error:
        WordVectors.load(path)
    assert "\n" not in str(error.value)


def test_zipf_weight_rises_with_rarity():
    weight = zipf_weight(torch.tensor([0, 10, 1000, 20000]), total=30000)
    assert (weight.diff() > 0).all() and 0 < weight[0] < 0.05 and weight[-1] > 0.9


def test_stems_do_not_eat_short_words():
    assert "bas" not in stems("as") and stems("the") == [] and "waltz" in stems("waltzes")
