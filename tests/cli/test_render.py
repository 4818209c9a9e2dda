"""`audiogen render`: clips that a scan can read, the same from one process as from two; bad scores are named."""

from __future__ import annotations

import json

import pytest
import torch

from audiogen.cli import main
from audiogen.core.audio import Audio
from audiogen.core.score import Note, Score


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    time = torch.arange(22050) / 22050
    for name, pitch in (("C3", 130.8), ("G4", 392.0)):
        tone = 0.3 * torch.sin(2 * torch.pi * pitch * time) * torch.exp(-2 * time)
        Audio(tone[None], 22050).save(tmp_path / "notes" / "cello" / f"cello_{name}.wav")
    (tmp_path / "tunes").mkdir()
    for index in range(3):
        Score((Note(0.0, 0.5, 60 + index, 90), Note(1.2, 0.5, 64, 70))).save(tmp_path / "tunes" / f"{index}.mid")
    (tmp_path / "tunes" / "metadata.csv").write_text("file,caption,split\n1.mid,a bow on two strings,test\n")
    return tmp_path


def render(*words: str) -> int:
    return main(["render", words[0], "--notes", "notes", "--style", "cello", "-o", *words[1:]])


def test_processes_render_what_one_renders(folder):
    assert render("tunes", "one", "--seconds", "1") == 0
    assert render("tunes", "two", "--seconds", "1", "--workers", "2") == 0
    names = sorted(path.name for path in (folder / "one").iterdir())
    assert len(names) == 3 * 3  # sound, score and facts of the clip of each tune that has notes and is whole
    assert all((folder / "one" / name).read_bytes() == (folder / "two" / name).read_bytes() for name in names)
    facts = json.loads((folder / "one" / "1_000.json").read_text())
    assert facts["styles"] == ["cello"] and facts["text"] == "a bow on two strings" and facts["split"] == "test"


def test_a_score_that_came_later_is_seen(folder, capsys):
    for count in (3, 4):
        assert render("tunes", "same") == 0
        assert f"of {count} scores" in capsys.readouterr().out
        Score((Note(0.0, 0.5, 67, 90),)).save(folder / "tunes" / "later.mid")


def test_scores_that_cannot_be_read_are_named(folder, capsys):
    (folder / "tunes" / "3.mid").write_bytes(b"MThd")
    assert render("tunes", "some", "--workers", "2") == 0
    assert "skipped 3.mid: " in (said := capsys.readouterr().out) and "of 3 scores; 1 skipped" in said
    assert render("tunes/3.mid", "none") == 2
    assert "3.mid" in capsys.readouterr().err
    assert render("tunes", "none", "--workers", "0") == 2
