"""The page of a result: whole, alone, escaped, with its charts and players."""

from __future__ import annotations

import re

import pytest
import torch

from audiogen.core.audio import Audio
from evaluation.page import write_page
from evaluation.report import evaluate


def clip(seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    pitch = 0.03 + 0.1 * torch.rand(1, generator=rng)
    return 0.3 * torch.sin(torch.arange(24000) * pitch) + 0.01 * torch.randn(24000, generator=rng)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("page")
    for index in range(24):
        Audio(clip(index)[None], 16000).save(home / "real" / f"{index}.wav")
        Audio(clip(100 + index)[None], 16000).save(home / "train" / f"{index}.wav")
    for index in range(7):
        Audio(clip(200 + index)[None], 16000).save(home / "made" / f"<b>{{{{sets}}}} & {index}.wav")
    Audio(clip(103)[None], 16000).save(home / "made" / "copied.wav")
    return home


@pytest.fixture(scope="module")
def result(folders):
    return evaluate(folders / "real", folders / "made", cache=None, training=folders / "train")


def test_the_page_stands_alone_and_escapes_names(folders, result, tmp_path):
    write_page(result, tmp_path / "page.html", generated=folders / "made")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"\{\{\w+\}\}", page) and "<b>{{" not in page
    assert "&lt;b&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)  # nothing is fetched
    assert page.count("<audio") == 8  # five best and the three others
    for text in ("Fréchet distance", "white noise", "two principal components", "Originality", "Provenance",
                 "<td>copied.wav</td><td>3.wav</td>"):
        assert text in page
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_a_copied_clip_is_named_with_its_source(result):
    copies = [(c["path"], c["source"]) for c in result["originality"]["copies"]]
    nearest = result["originality"]["nearest"]
    assert nearest[0]["path"] == "copied.wav" and nearest[0]["nearest"] == "3.wav" and nearest[0]["quantile"] < 0.05
    assert all(source == "3.wav" for path, source in copies if path == "copied.wav")
    assert not any(path != "copied.wav" for path, _ in copies)


def test_without_the_clips_there_are_no_players(result, tmp_path):
    write_page(result, tmp_path / "page.html")
    assert "<audio" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_map_has_a_place_for_every_clip(result):
    points = result["embedders"][0]["map"]
    assert len(points["reference"]) == 24 and len(points["generated"]) == 8
    assert all(len(point) == 3 for side in points.values() for point in side)
