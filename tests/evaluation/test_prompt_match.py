"""Prompts against what is heard: rates, lines, and a probe that learns the reference's folders."""

from __future__ import annotations

import pytest
import torch

from audiogen.core.audio import Audio
from evaluation.cache import EmbeddingCache
from evaluation.clips import ClipSet, check_clips
from evaluation.prompt_match import asked_for, prompt_rows, prompts_obeyed, rate, styles_obeyed, text_match
from evaluation.report import evaluate
from evaluation.summary import Summary

RATE = 16000


def clip_set(tmp_path, clips) -> ClipSet:
    """clips: (made_by, seconds, heard)."""
    found = ClipSet(tmp_path)
    for index, (made_by, seconds, heard) in enumerate(clips):
        digest = str(index)
        found.clips[tmp_path / f"{index}.wav"], found.lengths[digest] = digest, seconds
        found.made_by[digest], found.heard[digest] = made_by, heard
    return found


def asked(seconds=8.0, bpm=120.0, key="A minor"):
    return {"audiogen": "1", "prompt": {"seconds": seconds, "bpm": None, "key": None},
            "music": {"bpm": bpm, "key": key, "metre": "4/4"}}


def test_each_demand_is_counted_on_its_own(tmp_path):
    found = prompts_obeyed(clip_set(tmp_path, [
        (asked(), 8.0, {"bpm": 121.0, "key": "A minor"}),
        (asked(), 8.0, {"bpm": 60.0, "key": "C major"}),       # half the tempo; the relative major
        (asked(), 7.99, {"bpm": None, "key": None}),           # too short; nothing is heard
        (asked(bpm=None, key=None), 8.0, {"bpm": 90.0, "key": "D major"}),  # a texture asks for neither
        ({}, 3.0, {"bpm": 90.0, "key": "D major"}),            # somebody else's clip
    ]))
    counts = {name: (value["right"], value["n"]) for name, value in found.items() if isinstance(value, dict)}
    assert counts == {"length": (3, 4), "tempo": (1, 3), "tempo_octaves": (2, 3), "key": (1, 3), "key_relative": (2, 3)}
    assert [line["path"] for line in found["lines"]] == ["0.wav", "1.wav", "2.wav", "3.wav"]


def test_clips_that_say_nothing_are_not_judged(tmp_path):
    assert prompts_obeyed(clip_set(tmp_path, [({}, 1.0, {})])) is None
    assert asked_for({"prompt": {"seconds": 2.0, "bpm": 90}}) == {"seconds": 2.0, "bpm": 90}


def test_the_interval_is_wilsons():
    # Newcombe 1998, table I: 81 of 263, and 0 of 20
    assert rate([True] * 81 + [False] * 182)["interval_95"] == pytest.approx([0.2553, 0.3662], abs=1e-4)
    assert rate([False] * 20)["interval_95"] == pytest.approx([0.0, 0.1611], abs=1e-4)


def summary(styles, *, noise, per_style=15, suffix="") -> Summary:
    """Clips style/piece_k.wav whose mean lies at the style's corner."""
    source = torch.Generator().manual_seed(len(suffix))
    made = Summary.none(8, {"embedder": "made up"})
    for corner, style in enumerate(styles):
        for index in range(per_style):
            rows = torch.randn(2, 8, generator=source) * noise
            rows[:, corner] += 3.0
            made.add(f"{style}{suffix} {index}", rows, path=f"{style}/piece{suffix} {chr(97 + index)}.wav")
    return made


def test_a_probe_hears_styles_that_differ_and_chance_stands_beside():
    reference = summary(["solo_piano", "rain", "techno"], noise=0.3)
    made = summary(["solo_piano", "rain", "techno"], noise=0.3, suffix=" made")
    found = styles_obeyed(reference, made)
    assert found["match"]["share"] == 1.0 and found["held_out"]["share"] > 0.95 and found["chance"] == 1 / 3
    # What a clip was made with rules over its folder; a mix of styles is not asked.
    carried = {clip.digest: {"styles": {"Rain": 1.0}} for clip in made.clips}
    assert styles_obeyed(reference, made, carried)["match"]["share"] == pytest.approx(1 / 3)
    mixed = {clip.digest: {"styles": {"rain": 0.5, "techno": 0.5}} for clip in made.clips}
    assert styles_obeyed(reference, made, mixed) is None


def test_noise_is_told_apart_at_chance_only():
    reference, made = (summary(["a", "b"], noise=1e4, suffix=s, per_style=60) for s in ("", " made"))
    found = styles_obeyed(reference, made)
    assert found["match"]["interval_95"][0] < 0.5 < found["match"]["interval_95"][1]
    assert found["held_out"]["interval_95"][0] < 0.5 < found["held_out"]["interval_95"][1]


def test_the_cosine_of_clip_and_prompt_stands_beside_that_of_wrong_prompts():
    made = Summary.none(3, {"embedder": "made up"})
    for index in range(3):
        made.add(str(index), 5.0 * torch.eye(3)[index][None] + torch.tensor([0.0, 0.0, 5.0 * (index == 0)]))
    carried = {"0": {"prompt": {"text": "0"}}, "1": {"prompt": {"text": "1"}}, "2": {"prompt": {"text": ""}}}
    found = text_match(lambda texts: torch.eye(3)[[int(text) for text in texts]], made, carried)
    assert found["n"] == 2 and found["value"] == pytest.approx((0.5**0.5 + 1.0) / 2)  # clip 0 lies between 0 and 2
    assert found["wrong_prompts"] == 0.0
    assert text_match(lambda texts: torch.eye(3), made, {}) is None


def test_a_reference_without_folders_has_no_styles():
    assert styles_obeyed(summary(["only"], noise=1.0), summary(["only"], noise=1.0)) is None


def test_evaluate_listens_to_clips_that_carry_their_score(tmp_path):
    def clicks(bpm):
        clip = 1e-3 * torch.randn(8 * RATE, generator=torch.Generator().manual_seed(round(bpm)))
        t = torch.arange(1600) / RATE
        hit = torch.sin(2 * torch.pi * 440 * t) * torch.exp(-40 * t)
        for beat in range(int(8 * bpm / 60)):
            at = round(beat * 60 / bpm * RATE)
            clip[at : at + 1600] += 0.5 * hit[: len(clip) - at]
        return clip[None]

    for index, bpm in enumerate((100.0, 120.0)):
        Audio(clicks(bpm), RATE).save(tmp_path / "real" / f"{index}.wav")
        Audio(clicks(bpm), RATE, asked(bpm=bpm)).save(tmp_path / "made" / f"{index}.wav")
    result = evaluate(tmp_path / "real", tmp_path / "made", metrics=("frechet",), anchors=False, cache=None,
                      listen=True)
    assert result["prompts"]["length"]["share"] == 1.0 and result["prompts"]["tempo_octaves"]["share"] == 1.0
    assert any(what == "exact length" and "2 of 2" in found for what, found, _ in prompt_rows(result))
    # Not asked to listen: length is known all the same, the rest is left out.
    with EmbeddingCache(":memory:") as store:
        quiet = prompts_obeyed(check_clips(tmp_path / "made", store=store))
    assert "length" in quiet and "tempo" not in quiet
