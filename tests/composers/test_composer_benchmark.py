"""What benchmarks/composers.py measures, against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from audiogen.composers.grid import BASS, MELODY, GridNote, Sheet
from audiogen.composers.tunes import Tune
from benchmarks.composers import Melodies, divergence, histograms, longest_common


def line(*pitches: int, steps: int = 12, part: int = MELODY, start: int = 0) -> tuple[GridNote, ...]:
    return tuple(GridNote(start + i * steps, part, pitch, steps, 4) for i, pitch in enumerate(pitches))


def test_divergence_is_0_of_the_same_1_of_strangers_and_known_between():
    rows = np.array([[0.5, 0.5, 0, 0], [0.2, 0.8, 0, 0]])
    assert divergence(rows, rows[::-1]) == pytest.approx(0)
    assert divergence(rows, np.array([[0, 0, 1.0, 0]])) == pytest.approx(1)
    # (1, 0) and (1/2, 1/2): the middle is (3/4, 1/4); (log2(4/3) + (log2(2/3) + log2(2)) / 2) / 2
    wanted = (np.log2(4 / 3) + (np.log2(2 / 3) + np.log2(2)) / 2) / 2
    assert divergence(np.array([[1.0, 0]]), np.array([[1.0, 1.0]])) == pytest.approx(wanted)


def test_histograms_count_from_the_tonic_and_by_onset():
    sheet = Sheet(line(62, 66, 69, 62) + line(50, 50, steps=24, part=BASS), 1, key="D major")
    found = histograms(Sheet(tuple(sorted(sheet.notes)), 1, key="D major"))
    assert found["pitches"].tolist() == pytest.approx([4 / 6, 0, 0, 0, 1 / 6, 0, 0, 1 / 6, 0, 0, 0, 0])
    assert found["steps"][11] == 1 and found["durations"][11] == pytest.approx(4 / 6)
    assert found["durations"][23] == pytest.approx(2 / 6)


def longest_by_definition(one: list[int], other: list[int]) -> int:
    return max((j - i for i in range(len(one)) for j in range(i + 1, len(one) + 1)
                if any(one[i:j] == other[k : k + j - i] for k in range(len(other)))), default=0)


@pytest.mark.parametrize("seed", range(5))
def test_the_longest_common_passage_is_the_one_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 3, 12), rng.integers(0, 3, 40)
    assert longest_common(one, other) == longest_by_definition(one.tolist(), other.tolist())
    assert longest_common(one[:0], other) == 0


def test_a_copy_is_found_in_any_key_and_ends_with_its_tune():
    tunes = [Tune("a", Sheet(line(60, 62, 64, 65, 67), 2), group="first"), Tune("b", Sheet(line(69, 71, 60), 1))]
    melodies = Melodies(tunes)
    assert melodies.longest(Sheet(line(50, 30, 32, 34, 35, 90, start=24), 3)) == 4  # 30 32 34 35, a fourth of a
    assert melodies.longest(Sheet(line(30, 32, 34, 35), 1), but="first") == 2
    assert melodies.longest(Sheet(line(30, 32, 34, steps=6), 1)) == 1  # another rhythm
    assert melodies.longest(Sheet(line(64, 65, 67, 69), 1)) == 3  # not across two tunes
