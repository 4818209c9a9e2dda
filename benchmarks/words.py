"""How well are prompts read? Held-out prompts -> style, with the shipped word vectors and the shipped styles.

    python benchmarks/words.py            a table and the misses
    python benchmarks/words.py --json     one JSON object

`held_out`: tests/conditioning/held_out_prompts.tsv, written before any vector was made; read without aliases, so by
meaning alone. Right: the style asked for has the greatest weight and the prompt is known. `with_aliases`: the same
with the names in labels.ALIASES, most of them among these prompts: what a user meets, not how well meaning is read.
`unknown`: prompts that name no style (unknown_prompts.txt); right: not known. `left_out`: each phrase of a style's
description, read by a vocabulary that lacks that phrase (what the thresholds in audiogen/conditioning/labels.py were
chosen by).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import audiogen  # noqa: E402  (runs from a checkout too)
from audiogen.conditioning.labels import DESCRIPTIONS, StyleVocabulary  # noqa: E402
from audiogen.conditioning.text import WordVectors  # noqa: E402
from audiogen.core.interfaces import Prompt  # noqa: E402

WORDS = Path(audiogen.__file__).parent / "pretrained" / "default" / "words.safetensors"
TABLES = ROOT / "tests" / "conditioning"


def held_out() -> list[tuple[str, tuple[str, ...]]]:
    """(prompt, the styles that are right)."""
    lines = (TABLES / "held_out_prompts.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(prompt, tuple(styles.split("|"))) for prompt, styles in rows]


def unknown() -> list[str]:
    return (TABLES / "unknown_prompts.txt").read_text(encoding="utf-8").splitlines()


def left_out(words: WordVectors) -> tuple[int, int, list[str]]:
    """(right, asked, misses) over all description phrases."""
    right, asked, misses = 0, 0, []
    for name, text in DESCRIPTIONS.items():
        for phrase in text.split(", "):
            others = {**DESCRIPTIONS, name: ", ".join(p for p in text.split(", ") if p != phrase)}
            reading = StyleVocabulary(tuple(DESCRIPTIONS), words, others, aliases={}).read(Prompt(text=phrase))
            asked += 1
            top = next(iter(reading.weights))
            if reading.known and top == name:
                right += 1
            else:
                misses.append(f"{phrase} ({name}): {top if reading.known else 'unknown, ' + str(reading.nearest[0])}")
    return right, asked, misses


def measure(*, slow: bool = False) -> dict:
    start = time.perf_counter()
    words = WordVectors.load(WORDS)
    loading = time.perf_counter() - start
    start = time.perf_counter()
    styles = StyleVocabulary(tuple(DESCRIPTIONS), words, aliases={})
    building = time.perf_counter() - start
    misses, right = [], 0
    start = time.perf_counter()
    rows = held_out()
    for prompt, wanted in rows:
        reading = styles.read(Prompt(text=prompt))
        top = next(iter(reading.weights))
        if reading.known and top in wanted:
            right += 1
        else:
            misses.append(f"{prompt} ({'|'.join(wanted)}): {top if reading.known else 'unknown'} {reading.nearest[:2]}")
    reading_ms = (time.perf_counter() - start) / len(rows) * 1e3
    false = [prompt for prompt in unknown() if styles.read(Prompt(text=prompt)).known]
    named = StyleVocabulary(tuple(DESCRIPTIONS), words)
    with_aliases = sum(next(iter(named.read(Prompt(text=prompt)).weights)) in wanted for prompt, wanted in rows)
    result = {
        "held_out": round(right / len(rows), 3), "held_out_prompts": len(rows), "held_out_misses": misses,
        "with_aliases": round(with_aliases / len(rows), 3),
        "unknown_read_as_known": false, "unknown_prompts": len(unknown()),
        "styles": len(styles.names), "chance": round(1 / len(styles.names), 3),
        "condition_number": round(styles.condition_number, 4), "words": len(words), "dim": words.dim,
        "megabytes": round(WORDS.stat().st_size / 1e6, 2), "loading_ms": round(loading * 1e3, 1),
        "vocabulary_ms": round(building * 1e3, 1), "reading_ms": round(reading_ms, 2),
        "machine": platform.machine(), "torch": torch.__version__, "audiogen": audiogen.__version__,
    }
    if slow:
        good, asked, wrong = left_out(words)
        result |= {"left_out": round(good / asked, 3), "left_out_phrases": asked, "left_out_misses": wrong}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--left-out", action="store_true", help="also leave out each description phrase (a minute)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(slow=options.left_out)
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for name, value in result.items():
        if isinstance(value, list):
            print(f"{name}: {len(value)}", *(f"\n    {line}" for line in value), sep="")
        else:
            print(f"{name:>22}  {value}")


if __name__ == "__main__":
    main()
