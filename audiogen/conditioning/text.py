"""Static word embeddings: a prompt's words as points in one space, without a neural network at hand.

The vectors are distilled from a sentence model (recipes/distill_words.py) and stored as int8 directions. The mean of a
text's words, weighted by how rare they are (smooth inverse frequency, Arora et al. 2017), is the text's vector.

A word that is not in the vocabulary is looked for, in this order, as
    its stem        fiddlers -> fiddler, strumming -> strum
    its two halves  steelpan -> steel + pan
    a typing error  saxaphone -> saxophone (one letter added, lost, changed or two swapped)
and is reported as unknown where none of these is there.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from audiogen.core.errors import UserError
from audiogen.core.files import whole_file

MAX_PHRASE = 3  # words in the longest phrase
MAX_WORDS = 200  # of a text; what is longer is no prompt
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Words that carry no sound of their own; they never make a phrase by themselves.
STOP_WORDS = frozenset(
    "a an and are as at be but by for from has have i if in into is it its like me my no not of on one or some so than "
    "that the their them then there these they this to under very was we were what which while with without you "
    "your".split()
)


@dataclass(frozen=True)
class Phrase:
    """One to three words of a text that follow each other, at `start` .. `end` (in words, end excluded)."""

    text: str
    start: int
    end: int
    vector: Tensor  # (dim,) of unit length
    whole: bool  # True: the vocabulary has the phrase itself; False: the mean of its words


@dataclass(frozen=True)
class TextVectors:
    """What a text says: its phrases, its own vector, and the words that nothing is known about."""

    vector: Tensor  # (dim,) of unit length, or zeros where no word is known
    phrases: tuple[Phrase, ...]
    unknown: tuple[str, ...]

    @property
    def known(self) -> bool:
        return bool(self.phrases)


def tokenize(text: str) -> list[str]:
    """Words in lower case, without accents or punctuation: "Flûte, lo-fi & TR-808!" -> flute lo fi tr 808."""
    folded = unicodedata.normalize("NFKD", text.replace("ß", "ss").replace("ø", "o").replace("æ", "ae"))
    folded = "".join(char for char in folded if not unicodedata.combining(char)).lower()
    folded = re.sub(r"['’`]s?\b", "", folded)
    return re.findall(r"[^\W_]+", folded)[:MAX_WORDS]


def stems(word: str) -> list[str]:
    """What `word` may be a plural or another form of, the likeliest first (endings only; they may be no words)."""
    found = []
    for ending, others in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            stem = word[: len(word) - len(ending)]
            found += [stem + other for other in others]
            if ending in ("ing", "ed", "er", "ers") and len(stem) > 3 and stem[-1] == stem[-2]:
                found.append(stem[:-1])  # strumming -> strum
    return list(dict.fromkeys(found))


_ENDINGS = (
    ("ies", ("y", "ie")), ("ves", ("f", "fe")), ("es", ("", "e")), ("s", ("",)), ("ing", ("", "e")), ("ed", ("", "e")),
    ("ers", ("", "e")), ("er", ("", "e")), ("ist", ("", "o", "e")), ("ists", ("", "o", "e")), ("ly", ("", "le")),
    ("y", ("", "e")), ("ish", ("", "e")), ("ness", ("",)), ("like", ("",)), ("esque", ("", "e")),
)


def zipf_weight(rank: Tensor, *, total: int, a: float = 1e-3) -> Tensor:
    """Weight a / (a + p) of words from their ranks in a frequency list (0 = most frequent), p by Zipf's law."""
    p = 1.0 / (rank.float() + 1.0)
    p = p / torch.arange(1, total + 1).float().reciprocal().sum()
    return a / (a + p)


class WordVectors:
    """Vectors of words and phrases. `vectors` (words, dim) of unit length, `weights` (words,) in (0, 1]."""

    def __init__(self, words: list[str], vectors: Tensor, weights: Tensor, *, about: dict[str, str] | None = None):
        if not len(words) == len(vectors) == len(weights):
            raise ValueError(f"{len(words)} words, {len(vectors)} vectors, {len(weights)} weights: unequal")
        self.words = list(words)
        self.index = {word: i for i, word in enumerate(self.words)}
        # Kept as the int8 that is stored, so that a vector is the same before saving and after loading.
        scale = vectors.float().abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127
        self.quantised = torch.round(vectors.float() / scale).to(torch.int8)
        self.weights = weights.to(torch.float16)
        self.about = dict(about or {})

    @property
    def dim(self) -> int:
        return self.quantised.shape[-1]

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self.index

    def __getitem__(self, word: str) -> Tensor:
        """(dim,) unit vector of a word of the vocabulary; `KeyError` for another."""
        return normalize(self.quantised[self.index[word]].float(), dim=0)

    def save(self, path: str | Path) -> None:
        """One safetensors file: int8 vectors, float16 weights, and the words as UTF-8 text, one a line."""
        from safetensors.torch import save_file

        text = "\n".join(self.words).encode()
        tensors = {"vectors": self.quantised.contiguous(), "weights": self.weights,
                   "words": torch.frombuffer(bytearray(text), dtype=torch.uint8)}
        with whole_file(path) as part:
            save_file(tensors, part, metadata={"audiogen": "words", "about": json.dumps(self.about)})

    @classmethod
    def load(cls, path: str | Path) -> WordVectors:
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise UserError(f"no word vectors at {path}; make them with recipes/distill_words.py")
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in ("vectors", "weights", "words")}
                about = json.loads((file.metadata() or {}).get("about", "{}"))
            words = tensors["words"].numpy().tobytes().decode().split("\n")
            return cls(words, tensors["vectors"].float(), tensors["weights"], about=about)
        except (SafetensorError, OSError, ValueError) as reason:
            raise UserError(f"{path} holds no word vectors ({reason}); copy or download it again") from None

    def find(self, word: str) -> tuple[str, ...]:
        """The vocabulary's words that stand for `word`: itself, its stem, its halves, or its right spelling; or ()."""
        if word in self.index:
            return (word,)
        for stem in stems(word):
            if stem in self.index:
                return (stem,)
        if not re.fullmatch(r"[a-z]{5,24}", word):
            return ()
        halves = [(word[:at], word[at:]) for at in range(3, len(word) - 2)]
        halves = [pair for pair in halves if all(half in self.index and half not in STOP_WORDS for half in pair)]
        if halves:  # the pair of the two commonest words: of "drumloop", drum + loop
            return min(halves, key=lambda pair: max(self.index[half] for half in pair))
        spelled = [other for other in _one_edit(word) if other in self.index]
        return (min(spelled, key=self.index.__getitem__),) if spelled else ()

    def embed(self, text: str) -> Tensor:
        """(dim,) float32 of unit length; zeros where no word of the text is known."""
        return self.read(text).vector

    def embed_phrases(self, text: str) -> tuple[Phrase, ...]:
        """Every run of 1 to 3 words that has a vector."""
        return self.read(text).phrases

    def read(self, text: str) -> TextVectors:
        """The text's vector, its phrases and its unknown words."""
        tokens = tokenize(text)
        found = [() if token in STOP_WORDS or len(token) < 2 and not token.isdigit() else self.find(token)
                 for token in tokens]
        # Numbers say nothing by themselves (90 bpm, 6/8), but may be part of a phrase ("tr 808").
        found = [() if token.isdigit() and len(token) != 3 else self_found
                 for token, self_found in zip(tokens, found, strict=True)]
        unknown = tuple(dict.fromkeys(
            token for token, words in zip(tokens, found, strict=True)
            if not words and token not in STOP_WORDS and len(token) > 1 and not any(char.isdigit() for char in token)
        ))
        phrases = []
        for start in range(len(tokens)):
            for end in range(start + 1, min(start + MAX_PHRASE, len(tokens)) + 1):
                phrase = self._phrase(tokens, found, start, end)
                if phrase is not None:
                    phrases.append(phrase)
        known = [word for words in found for word in words]
        return TextVectors(self._mean(known) if known else torch.zeros(self.dim), tuple(phrases), unknown)

    def _phrase(self, tokens: list[str], found: list[tuple[str, ...]], start: int, end: int) -> Phrase | None:
        text = " ".join(tokens[start:end])
        if end - start == 1:
            if not found[start]:
                return None
            words = found[start]
            vector = self[words[0]] if len(words) == 1 else self._pair(words)
            return Phrase(text, start, end, vector, whole=True)
        # "drum machines", "lo fi" written "lofi": the phrase with its last word's stem, or written as one word
        for name in (text, *(" ".join([*tokens[start : end - 1], stem]) for stem in stems(tokens[end - 1])),
                     "".join(tokens[start:end])):
            if name in self.index:
                return Phrase(text, start, end, self[name], whole=True)
        if not all(found[start:end]):  # a stop or unknown word inside: the runs beside it are phrases of their own
            return None
        return Phrase(text, start, end, self._mean([w for words in found[start:end] for w in words]), whole=False)

    def _pair(self, words: tuple[str, ...]) -> Tensor:
        joined = " ".join(words)
        return self[joined] if joined in self.index else self._mean(list(words))

    def _mean(self, words: list[str]) -> Tensor:
        rows = [self.index[word] for word in words]
        vectors = normalize(self.quantised[rows].float(), dim=-1)
        return normalize((vectors * self.weights[rows].float().unsqueeze(-1)).sum(0), dim=0)


def _one_edit(word: str) -> set[str]:
    """Every string that is one typing error away from `word` (Norvig's spelling corrector)."""
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    return (
        {a + b[1:] for a, b in cuts if b} | {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
        | {a + c + b[1:] for a, b in cuts if b for c in _LETTERS} | {a + c + b for a, b in cuts for c in _LETTERS}
    )
