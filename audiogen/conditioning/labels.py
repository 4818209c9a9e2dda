"""Styles: from a prompt to weights over the styles that a model knows, and from those to its condition vector.

A style is a name ("cello") with a few short phrases that describe it. Its phrases are points in the space of word
vectors. A run of one to three words of a prompt is scored against each style by its cosine with the style's nearest
phrase and with their mean; runs that are near no style ("slow", "melancholic") say nothing, and where runs overlap
the best one counts ("electric piano" wins over "piano"). So words that no description contains find their style by
what they mean.

What the generator sees is `vector(weights)`: the weighted sum of one vector a style. Those are the means of the
phrases made orthogonal to each other with the least change (Löwdin 1950), so that two kinds of drums are as far apart
as a cello and rain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import normalize

from audiogen.conditioning.text import Phrase, WordVectors, tokenize
from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt

# Measured on the descriptions themselves, each phrase left out in turn, and on BACKGROUND: see benchmarks/words.py.
KNOWN = 0.42  # a run of words at least this near to a style names it
CLEAR = 0.05  # ... and by this nearer to one of its phrases than to everything that is no style,
SURE = 0.6  # unless the score is at least this
NEAREST = 0.5  # share of the nearest phrase in a score; the mean of the phrases has the rest
ALSO = 0.75  # further runs count if they are at least this share as near as the best one
NAME = 0.6  # an unknown style's name at least this near to a style is taken for it
SHARPNESS = 30.0  # of the softmax over the styles of one run
SAME = 0.06  # styles whose scores are further than this below a run's best get none of its weight

# Of the styles that are shipped. Other styles live well with their name alone; a line of phrases makes them found by
# more words.
DESCRIPTIONS: dict[str, str] = {
    "grand piano": (
        "piano, acoustic piano, concert grand, upright piano, piano keys, classical piano, ivory keys, baby "
        "grand, spinet, piano sonata, piano concerto, piano ballad, harpsichord, chopin, pianist, mozart sonata, "
        "honky tonk piano"
    ),
    "electric piano": (
        "electric keyboard, digital piano, tine piano, synth keys, keyboard, synthesizer, electronic keyboard, "
        "clavinet, keyboardist, keytar, yamaha keyboard, electric keys, moog, suitcase keys, synth"
    ),
    "drawbar organ": (
        "organ, church organ, pipe organ, electric organ, jazz organ, rock organ, cathedral organ, harmonium, "
        "chapel organ, organist, accordion, church service, organ fugue"
    ),
    "acoustic guitar": (
        "classical guitar, spanish guitar, folk guitar, steel string guitar, fingerstyle guitar, guitar, "
        "fingerpicking, strummed guitar, strum, lute, mandolin, dulcimer, harp, bouzouki, guitar ballad, singer "
        "songwriter guitar"
    ),
    "electric guitar": (
        "overdriven guitar, rock guitar, lead guitar, guitar riff, distorted guitar, guitar solo, blues guitar, "
        "guitar amplifier, hard rock, punk rock, rock and roll, grunge, power chords, guitarist, fuzz pedal, "
        "hendrix, metallica"
    ),
    "electric bass": (
        "electric bass, funk bass, bass player, bassline, bass, fretless bass, rock bass, bass line, bass riff, "
        "fender bass, bassist, bass groove, funky bassline, bass amp, slapping bass"
    ),
    "double bass": (
        "plucked double bass, acoustic bass, string bass, walking bass, jazz bass, pizzicato bass, stand up bass, "
        "orchestral bass, bowed bass, plucked bass, standup bass"
    ),
    "cello": (
        "solo cello, cello suite, bowed cello, cello concerto, viola da gamba, cellos, violoncellist, bach suite"
    ),
    "violin section": (
        "violin, violins, fiddle, string section, orchestral violins, string ensemble, viola, symphony orchestra, "
        "string quartet, violin concerto, chamber orchestra, fiddler, violinist, orchestra, symphonic, paganini, "
        "stradivarius"
    ),
    "flute": (
        "flute solo, concert flute, wooden flute, pan flute, woodwind, whistle, tin whistle, ocarina, jazz flute, "
        "bamboo flute, fife, woodwinds, shakuhachi, bansuri, pan pipes, oboe, bassoon"
    ),
    "saxophone": (
        "alto saxophone, tenor saxophone, saxophone solo, jazz saxophone, reed instrument, clarinet, bebop, swing "
        "band, baritone saxophone, clarinetist, jazz quartet, charlie parker, trumpet, jazz"
    ),
    "tuba": (
        "tuba player, tubist, brass instrument, low brass, brass band, oompah band, marching band, brass, low "
        "horn, bass horn, cornet, bugle"
    ),
    "bagpipe": (
        "bagpipes, irish bagpipes, pipe band, bagpiper, kilt, celtic pipes, chanter and drone, uilleann, "
        "edinburgh tattoo, scottish music, gaelic, celtic music, scotland"
    ),
    "banjo": (
        "country banjo, five string banjo, hillbilly music, country music, old time string band, dixieland, "
        "hoedown, nashville, kentucky, folk americana, hillbilly, country fiddle"
    ),
    "sitar": (
        "indian sitar, indian music, indian classical music, hindustani music, sarod, tabla, sitarist, bollywood, "
        "hindu chant, sarangi, mantra, delhi, india, hindi film music"
    ),
    "marimba": (
        "wooden marimba, mallet instrument, wooden bars, mallets, african marimba, wood block, kalimba, mbira, "
        "marimbist, african percussion, wooden mallets"
    ),
    "vibraphone": (
        "jazz vibraphone, metal bars, vibraphonist, metallophone, tubular bells, chimes, celesta, music box, bell "
        "tones, bells, metal mallets, chime, milt jackson"
    ),
    "steel drum": (
        "steel drums, steel band, tropical island music, soca, reggae, jamaican music, west indies, caribbean, "
        "barbados, jamaica, bob marley, steel percussion"
    ),
    "female voice": (
        "woman singing, female vocalist, singer, voice, girl singing, choir, opera singer, vocal, aria, song "
        "lyrics, humming, chant, alto voice, opera, mezzo, gospel choir, chorus, songstress, vocalist, choral, "
        "lullaby, lady"
    ),
    "drum kit": (
        "drum set, acoustic drums, drums, drum, drum solo, jazz drums, drum fill, hi hat, bass drum, drumming, "
        "drum beat, percussion, tom tom, drum roll, percussionist, bongos, drumsticks, timpani, tambourine, conga"
    ),
    "TR-808 drums": (
        "tr 808, 808, 808 drums, roland 808, electronic drums, drum computer, rap beat, techno drums, techno "
        "beat, electro, beat box, dance beat, drum loop, electronic beats, rapper, dj, techno, house music, rap "
        "music, edm"
    ),
    "rain": (
        "rainfall, rain falling, raindrops, rain shower, rainstorm, rainy weather, thunder, storm, rain on a "
        "roof, dripping water, shower, raining, wet weather, hailstorm, umbrella, cloudburst, hurricane, rainy "
        "day"
    ),
    "sea waves": (
        "sea, waves, waves crashing, breaking waves, seaside, coast, shoreline, wave, splashing waves, seashore, "
        "tsunami, shore, breakers, swell, atlantic, bay, harbour, lapping water, sailing"
    ),
    "crackling fire": (
        "fire, wood fire, log fire, open fire, burning wood, fire crackling, hearth, embers, burning, forest "
        "fire, stove, wildfire, blaze, inferno, candle, furnace"
    ),
    "helicopter": (
        "helicopter blades, helicopter flying, aircraft, airplane, helicopter engine, propeller, military "
        "helicopter, hovering, copter, airlift, drone flying, gunship, aviation"
    ),
    "chainsaw": (
        "chain saw, power saw, sawing wood, cutting wood, tree cutting, saw, motor saw, woodcutting, forestry "
        "machine, sawmill, timber, woodcutter, circular saw, sawing, deforestation, axe"
    ),
}

# Other names that static vectors cannot know: makers, models, players. Looked up word for word, by no meaning.
ALIASES: dict[str, str] = {
    "grand piano": "steinway, bechstein, yamaha grand, bosendorfer, pianoforte",
    "electric piano": "rhodes, fender rhodes, wurlitzer, wurli, dx7, e piano",
    "drawbar organ": "hammond, hammond organ, b3, hammond b3, leslie",
    "acoustic guitar": "flamenco, ukulele, nylon string, classical guitarist, acoustic",
    "electric guitar": "stratocaster, strat, telecaster, les paul, gibson, electric guitarist",
    "electric bass": "bass guitar, slap bass, jaco pastorius",
    "double bass": "contrabass, upright bass, upright",
    "violin section": "strings, string orchestra",
    "saxophone": "sax, coltrane, john coltrane, horn section, alto sax, tenor sax, soprano sax",
    "banjo": "appalachian, bluegrass",
    "marimba": "xylophone, balafon",
    "vibraphone": "vibes, glockenspiel",
    "steel drum": "steelpan, steelpans, steel pan, steel pans, pannist, calypso",
    "TR-808 drums": "drum machine, tr808, beats, trap beat, hip hop beat",
    "chainsaw": "logging",
}

# What prompts speak of that is no style: a run nearer to one of these than to every style names none.
BACKGROUND = (
    "income tax, law, theory of relativity, quantum physics, cooking recipe, soup, breakfast, dessert, football "
    "match, stock market, finance, kitchen table, email password, hospital, medicine, doctor, elephant, dog, "
    "software engineer, computer program, data, mathematics, geometry, blue car, teacher, school, bank account, "
    "clothes, history of rome, chemistry, biology, marriage, fruit, insurance, politics, election, government, "
    "homework, parking ticket, website, philosophy, boots, shoes, refrigerator, wallpaper, document, report, "
    "office, business, price, language, grammar, religion, city, country, house, furniture, slow, slowly, fast, "
    "gentle, happy, sad, dark, bright, evening, night, morning, long, short, minor, major, key, very, "
    "melancholic, dreamy, warm, cold, quiet, loud, energetic, calm, distant, far away, huge, small, old, new, "
    "deep, high, low, soft, hard, angry, smoky, peaceful, relaxing, summer, winter, tempo, bpm, rhythm, beats per "
    "minute, song, music, tune, melody, sound, noise, recording, solo, playing, ballad, waltz, march, blues, "
    "forest, city, room, club, background, style, mood, epic, cinematic, romantic, beautiful"
)


@dataclass(frozen=True)
class Reading:
    """What a prompt asks for, in the model's own styles."""

    weights: dict[str, float]  # style -> share; they sum to 1
    negative: dict[str, float] = field(default_factory=dict)  # what must not be heard, likewise; {} where nothing is
    unknown: tuple[str, ...] = ()  # words that nothing is known about
    known: bool = True  # False: nothing in the prompt names a style, and `weights` are only the nearest one's
    nearest: tuple[tuple[str, float], ...] = ()  # the styles that are nearest to the text, with their scores


class StyleVocabulary:
    """The styles of one model. `vectors` (styles, dim) are a checkpoint's; None: made from names and descriptions.

    `descriptions`: style -> phrases parted by commas, what is heard there and in words near to it; None: DESCRIPTIONS.
    `aliases`: style -> further names, that count word for word; None: ALIASES. Both speak only of styles in `names`.
    """

    def __init__(
        self, names: Sequence[str], words: WordVectors, descriptions: Mapping[str, str] | None = None,
        *, aliases: Mapping[str, str] | None = None, vectors: Tensor | None = None,
    ) -> None:
        self.names = tuple(names)
        if not self.names or len(set(self.names)) != len(self.names):
            raise UserError(f"styles must be named, each once: {', '.join(self.names) or 'none given'}")
        self.words = words
        given = DESCRIPTIONS if descriptions is None else descriptions
        self.descriptions = {name: given[name] for name in self.names if name in given}
        others = ALIASES if aliases is None else aliases
        self._named: dict[str, list[int]] = {}  # words of a name -> its style
        self._said: dict[str, list[int]] = {}  # words of a phrase or alias -> the styles that have it
        for i, name in enumerate(self.names):
            self._named.setdefault(" ".join(tokenize(name)), []).append(i)
            phrases = [*_phrases(self.descriptions.get(name, "")), *_phrases(others.get(name, ""))]
            for phrase in dict.fromkeys(" ".join(tokenize(phrase)) for phrase in phrases):
                self._said.setdefault(phrase, []).append(i)
        keys, owner = [], []
        for i, name in enumerate(self.names):
            for phrase in dict.fromkeys([name, *_phrases(self.descriptions.get(name, ""))]):
                vector = _whole(words, phrase)
                if vector.any():
                    keys.append(vector)
                    owner.append(i)
        self._keys = torch.stack(keys) if keys else torch.zeros(0, words.dim)  # (phrases, dim)
        self._owner = torch.tensor(owner, dtype=torch.int64)
        self._means = torch.stack([
            normalize(self._keys[self._owner == i].sum(0), dim=0) for i in range(len(self.names))
        ])  # (styles, dim)
        background = [_whole(words, phrase) for phrase in _phrases(BACKGROUND)]
        self._background = torch.stack(background)
        self.vectors = spread(self._means) if vectors is None else vectors.float()
        if self.vectors.shape[0] != len(self.names):
            raise UserError(f"{len(self.names)} styles with {self.vectors.shape[0]} vectors: the labels are corrupt")

    @property
    def dim(self) -> int:
        """Length of `Condition.vector`."""
        return self.vectors.shape[-1]

    @property
    def condition_number(self) -> float:
        """Of the vectors' Gram matrix: 1 where the styles are all at right angles, large where two look alike."""
        return float(torch.linalg.cond((self.vectors @ self.vectors.T).double()))

    def read(self, prompt: Prompt) -> Reading:
        """Explicit styles win over the text. Raises `UserError` for a style that is none and near none."""
        negative, _, _ = self._read_text(prompt.negative)
        if prompt.styles:
            weights: dict[str, float] = {}
            for name, weight in prompt.styles:
                if not weight > 0 or weight == float("inf"):
                    raise UserError(f"style {name!r} has weight {weight:g}; give a positive one, such as 0.5")
                style = self.resolve(name)
                weights[style] = weights.get(style, 0.0) + weight
            return Reading(_shares(weights), negative, nearest=tuple((style, 1.0) for style in weights))
        weights, nearest, unknown = self._read_text(prompt.text)
        if weights:
            return Reading(weights, negative, unknown, True, nearest)
        return Reading({nearest[0][0]: 1.0}, negative, unknown, False, nearest)

    def resolve(self, name: str) -> str:
        """The style that `name` means: itself in any case, a phrase of one description, or the nearest one by far."""
        exact = self._exact(name)
        if exact is not None:
            return self.names[exact]
        vector = _whole(self.words, name)
        if vector.any() and self._known(vector):
            scores = self.scores(vector)
            if float(scores.max()) >= NAME:
                return self.names[int(scores.argmax())]
        hint = did_you_mean(name, self.names)
        listed = "" if hint.startswith("; known") else "; known: " + ", ".join(sorted(self.names))
        raise UserError(f"no style is called {name!r}{hint}{listed}")

    def scores(self, vector: Tensor) -> Tensor:
        """vector (dim,) of unit length -> (styles,): cosines with its nearest phrase and its mean."""
        nearest = torch.full((len(self.names),), -1.0).scatter_reduce(0, self._owner, self._keys @ vector, "amax")
        return NEAREST * nearest + (1 - NEAREST) * (self._means @ vector)

    def vector(self, weights: Mapping[str, float]) -> Tensor:
        """Style weights -> (dim,): weighted sum of the styles' vectors; no weights: zeros, the unconditional one."""
        total = torch.zeros(self.dim)
        for name, weight in weights.items():
            total = total + weight * self.vectors[self.names.index(self.resolve(name))]
        return total

    def to_dict(self) -> dict:
        """For a checkpoint's labels: plain JSON."""
        return {
            "styles": list(self.names), "descriptions": self.descriptions,
            "vectors": [[round(value, 6) for value in row] for row in self.vectors.tolist()],
        }

    @classmethod
    def from_dict(cls, values: Mapping, words: WordVectors) -> StyleVocabulary:
        """What `to_dict` wrote. The vectors are those the model was trained with, whatever `words` are now."""
        try:
            return cls(values["styles"], words, values["descriptions"], vectors=torch.tensor(values["vectors"]))
        except (KeyError, TypeError, ValueError) as reason:
            if isinstance(reason, UserError):
                raise
            raise UserError(f"the checkpoint's labels hold no style vocabulary ({reason!r})") from None

    def _exact(self, text: str) -> int | None:
        """The one style that has this text for its name or for one of its phrases; a name wins over phrases."""
        plain = " ".join(tokenize(text))
        owners = self._named.get(plain) or self._said.get(plain, [])
        return owners[0] if len(owners) == 1 else None

    def _known(self, vector: Tensor) -> bool:
        """Nearer to some style than to everything that is none."""
        style = float((self._keys @ vector).max()) if len(self._keys) else -1.0
        return style > float((self._background @ vector).max()) + CLEAR

    def _read_text(self, text: str) -> tuple[dict[str, float], tuple[tuple[str, float], ...], tuple[str, ...]]:
        """Weights of a text ({} where nothing in it names a style), its nearest styles, its unknown words."""
        read = self.words.read(text)
        found: list[tuple[float, int, int, Tensor]] = []  # (score, start, end, scores of all styles)
        best = torch.zeros(len(self.names))
        longer = [phrase for phrase in read.phrases if phrase.whole and phrase.end - phrase.start > 1]
        for phrase in _outside(read.phrases, longer):
            scores = self.scores(phrase.vector)
            best = torch.maximum(best, scores)
            top = float(scores.max())
            if top >= SURE or top >= KNOWN and self._known(phrase.vector):
                found.append((top, phrase.start, phrase.end, scores))
        exact = self._said_outright(tokenize(text))
        for start, end, style in exact:
            if any(p.start <= start and end <= p.end and (p.start, p.end) != (start, end) for p in longer):
                continue  # the "drum" of "drum machine"
            scores = torch.zeros(len(self.names))
            scores[style] = 1.0
            best[style] = 1.0
            found.append((end - start + 1.0, start, end, scores))  # before every run that is only near
        order = torch.argsort(best, descending=True, stable=True)[:3].tolist()
        nearest = tuple((self.names[i], round(float(best[i]), 3)) for i in order)
        found.sort(key=lambda item: (-item[0], item[1]))
        taken: set[int] = set()
        named: dict[str, float] = {}
        for top, start, end, scores in found:
            place = set(range(start, end))
            if place & taken or top < ALSO * min(found[0][0], 1.0):
                continue
            taken |= place
            for style, share in self._sharpened(scores).items():
                named[style] = max(named.get(style, 0.0), share)  # a style named twice still counts once
        inside = {word for start, end, _ in exact for word in tokenize(text)[start:end]}
        return _shares(named), nearest, tuple(word for word in read.unknown if word not in inside)

    def _said_outright(self, tokens: list[str]) -> list[tuple[int, int, int]]:
        """(start, end, style) of every run of words that is a name, an alias or a whole phrase of one style."""
        length = len(tokens)
        runs = [(start, end) for start in range(length) for end in range(start + 1, min(start + 3, length) + 1)]
        found = [(start, end, self._exact(" ".join(tokens[start:end]))) for start, end in runs]
        return [(start, end, style) for start, end, style in found if style is not None]

    def _sharpened(self, scores: Tensor) -> dict[str, float]:
        near = scores >= scores.max() - SAME
        shares = torch.where(near, SHARPNESS * scores, -torch.inf).softmax(0)
        return {self.names[i]: float(shares[i]) for i in torch.nonzero(near).flatten().tolist()}


def spread(means: Tensor) -> Tensor:
    """Unit vectors (styles, dim) -> the orthonormal ones that are nearest to them (Löwdin 1950), each of length 1.

    With more styles than dimensions no such set exists; then the nearest tight frame is what comes out.
    """
    left, _, right = torch.linalg.svd(means.double(), full_matrices=False)
    return normalize(left @ right, dim=-1).float()


def _outside(phrases: Sequence[Phrase], longer: Sequence[Phrase]) -> list[Phrase]:
    """The phrases that lie in no longer phrase of the vocabulary: "drum machine" is no drum."""
    return [
        phrase for phrase in phrases
        if not any(p.start <= phrase.start and phrase.end <= p.end and p is not phrase for p in longer)
    ]


def _phrases(text: str) -> list[str]:
    return [phrase.strip() for phrase in text.replace(";", ",").split(",") if phrase.strip()]


def _whole(words: WordVectors, text: str) -> Tensor:
    """(dim,): the vocabulary's own vector of a short phrase where it has one, else the mean of its words."""
    name = " ".join(tokenize(text))
    return words[name] if name in words else words.embed(text)


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total for name, weight in sorted(weights.items(), key=lambda item: -item[1])}
