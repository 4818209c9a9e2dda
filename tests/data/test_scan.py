"""A scan drops nothing without a reason, never lets one recording on two sides, and does not depend on its workers."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import soundfile

from audiogen.core.errors import UserError
from audiogen.data import duplicates
from audiogen.data.manifest import read_manifest
from audiogen.data.scan import rejects_path, scan, summary

RATE = 16000


def sound(seed: int, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    """A melody of decaying notes in a little noise, different for every seed."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    mix = 0.003 * rng.standard_normal(len(time))
    for onset in np.arange(0, seconds, 0.2):
        pitch, late = 110 * 2 ** (rng.integers(0, 36) / 12), np.maximum(time - onset, 0)
        for harmonic in (1, 2, 3):
            mix += (time >= onset) * 0.2 / harmonic * np.exp(-4 * late) * np.sin(2 * np.pi * pitch * harmonic * late)
    return 0.5 * mix / np.abs(mix).max()


def write(path, samples, rate=RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def table(path, rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def by_path(result):
    return {entry.path: entry for entry in result.manifest}


def test_formats_names_and_folders(tmp_path):
    for index, name in enumerate(["a b.wav", "ü/żółw 🎹.flac", "c.ogg", "x/y/d.mp3", "e.AIFF"]):
        write(tmp_path / name, sound(index))
    write(tmp_path / "f.opus", sound(9), format="OGG", subtype="OPUS")
    write(tmp_path / ".hidden.wav", sound(7))
    write(tmp_path / ".git" / "h.wav", sound(8))
    (tmp_path / "notes.pdf").write_text("x")
    (tmp_path / "film.m4a").write_text("x")
    result = scan(tmp_path, workers=1)
    assert list(by_path(result)) == sorted(["a b.wav", "ü/żółw 🎹.flac", "c.ogg", "x/y/d.mp3", "e.AIFF", "f.opus"])
    assert [(r.path, "not supported" in r.reason) for r in result.rejects] == [("film.m4a", True)]
    assert result.ignored == {".pdf": 1}
    assert all(abs(entry.seconds - 1) < 0.1 for entry in result.manifest)


def test_rejects_are_written_with_their_reasons_and_said_loudly(tmp_path):
    write(tmp_path / "in" / "good.wav", sound(0))
    write(tmp_path / "in" / "zeros.wav", 0 * sound(0))
    (tmp_path / "in" / "text.wav").write_text("text")
    result = scan(tmp_path / "in", workers=1)
    rejects = result.write(tmp_path / "m.jsonl")
    assert rejects == tmp_path / "m.rejects.jsonl" and rejects_path("manifest.jsonl").name == "rejects.jsonl"
    lines = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [line["path"] for line in lines] == ["text.wav", "zeros.wav"]
    assert lines[1]["reason"].startswith("silent")
    assert any("MORE THAN 1 %" in part for part in summary(result) if isinstance(part, str))
    assert read_manifest(tmp_path / "m.jsonl").entries == result.manifest.entries


def test_nothing_left_is_an_error_and_writes_no_manifest(tmp_path):
    (tmp_path / "text.wav").write_text("text")
    with pytest.raises(UserError, match="all 1 audio files.*text.wav: unreadable"):
        scan(tmp_path, workers=1).write(tmp_path / "m.jsonl")
    assert not (tmp_path / "m.jsonl").exists() and (tmp_path / "m.rejects.jsonl").exists()


def test_a_missing_or_empty_folder_says_so(tmp_path):
    with pytest.raises(UserError, match="no folder at"):
        scan(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no audio files under"):
        scan(tmp_path)
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(UserError, match="there are 1 .pdf"):
        scan(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        scan(tmp_path / "a.pdf")


def test_the_number_of_workers_changes_nothing(tmp_path):
    for index in range(6):
        write(tmp_path / f"{index}.flac", sound(index // 2))
    (tmp_path / "7.wav").write_text("text")
    one, two = scan(tmp_path, workers=1), scan(tmp_path, workers=2)
    assert one.manifest == two.manifest and one.rejects == two.rejects and two.workers == 2
    assert [entry.duplicate_of for entry in one.manifest] == [None, "0.flac", None, "2.flac", None, "4.flac"]


def test_the_cascade_takes_each_field_from_the_first_layer_that_has_it(tmp_path):
    folder = tmp_path / "train" / "brass_band"
    with_tags = folder / "a.flac"
    with_tags.parent.mkdir(parents=True)
    with soundfile.SoundFile(with_tags, "w", RATE, 1) as file:
        file.title, file.genre, file.artist = "embedded title", "embedded genre", "somebody"
        file.write(sound(0))
    for index, name in enumerate("bcd"):
        write(folder / f"{name}.wav", sound(index + 1))
    table(tmp_path / "metadata.csv", [
        {"file": "train/brass_band/a.flac", "caption": "csv caption", "label": "csv label", "licence": "CC0-1.0"},
        {"file": "train/brass_band/b.wav", "caption": "csv b", "split": "test", "source_group": "g", "seconds": "99"},
    ])
    (folder / "a.txt").write_text("  txt\n caption ")

    def said():
        return by_path(scan(tmp_path, workers=1))

    entry = said()["train/brass_band/a.flac"]
    assert (entry.text, entry.styles, entry.split) == ("txt caption", ("csv label",), "train")
    assert entry.tags == {"licence": "CC0-1.0", "title": "embedded title", "artist": "somebody"}
    (folder / "a.json").write_text(json.dumps({"text": "json text", "styles": ["x", "y"], "split": "val", "bpm": 90}))
    entry = said()["train/brass_band/a.flac"]
    assert (entry.text, entry.styles, entry.split) == ("json text", ("x", "y"), "valid") and entry.tags["bpm"] == "90"
    (folder / "a.json").unlink()
    (folder / "a.txt").unlink()
    entries = said()
    assert entries["train/brass_band/a.flac"].text == "csv caption"
    assert entries["train/brass_band/b.wav"].split == "test" and entries["train/brass_band/b.wav"].source == "g"
    assert "seconds" not in entries["train/brass_band/b.wav"].tags
    (tmp_path / "metadata.csv").unlink()
    entries = said()
    assert (entries["train/brass_band/a.flac"].text, entries["train/brass_band/a.flac"].styles) == (
        "embedded title", ("embedded genre",))
    assert (entries["train/brass_band/c.wav"].text, entries["train/brass_band/c.wav"].styles) == (
        "brass band", ("brass band",))


def test_the_nearest_metadata_csv_wins(tmp_path):
    write(tmp_path / "a" / "x.wav", sound(0))
    table(tmp_path / "metadata.csv", [{"file": "a/x.wav", "caption": "far", "label": "far label"}])
    table(tmp_path / "a" / "metadata.csv", [{"filename": "x.wav", "text": "near"}])
    entry = scan(tmp_path, workers=1).manifest.entries[0]
    assert (entry.text, entry.styles) == ("near", ("far label",))


def test_a_midi_file_beside_the_sound_is_its_score(tmp_path):
    write(tmp_path / "in" / "a.wav", sound(0))
    (tmp_path / "in" / "a.mid").write_bytes(b"MThd")
    result = scan(tmp_path / "in", workers=1)
    assert result.manifest.entries[0].score == "a.mid"
    assert result.manifest.score(result.manifest.entries[0]) == tmp_path / "in" / "a.mid"


def test_broken_sidecars_are_told_and_do_not_cost_the_file(tmp_path):
    write(tmp_path / "a.wav", sound(0))
    (tmp_path / "a.json").write_text("{no json")
    table(tmp_path / "metadata.csv", [{"file": "a.wav", "split": "somewhere"}])
    result = scan(tmp_path, workers=1)
    assert len(result.manifest) == 1 and len(result.problems) == 2
    assert "a.json" in result.problems[0] and "'somewhere'" in result.problems[1]


def test_no_source_and_no_duplicate_is_on_two_sides(tmp_path):
    rows = []
    for index in range(24):
        write(tmp_path / f"{index:02d}.wav", sound(index if index < 22 else 0))  # 22 and 23 are copies of 00
        rows.append({"file": f"{index:02d}.wav", "source_group": f"group {index // 3}"})
    rows[4]["split"] = "valid"  # group 1 is given to valid
    rows[21]["split"], rows[0]["split"] = "test", "test"  # groups 7 and 0 are tied by the copies
    table(tmp_path / "metadata.csv", rows)
    result = scan(tmp_path, workers=1, valid=0.3, test=0.3)
    sides = {}
    for entry in result.manifest:
        sides.setdefault(entry.source, set()).add(entry.split)
    assert all(len(side) == 1 for side in sides.values())
    assert sides["group 1"] == {"valid"} and sides["group 0"] == sides["group 7"] == {"test"}
    other = scan(tmp_path, workers=1, valid=0.3, test=0.3, seed=5)
    assert [e.split for e in other.manifest] != [e.split for e in result.manifest]


def test_a_source_given_to_two_splits_goes_to_the_larger_part(tmp_path):
    rows = []
    for index, (seconds, split) in enumerate([(0.5, "test"), (1.0, "train"), (0.6, "test")]):
        write(tmp_path / f"{index}.wav", sound(index, seconds))
        rows.append({"file": f"{index}.wav", "source_group": "one", "split": split})
    table(tmp_path / "metadata.csv", rows)
    result = scan(tmp_path, workers=1)
    assert {entry.split for entry in result.manifest} == {"test"}  # 1.1 s of it, against 1.0 s
    assert any("two splits" in problem for problem in result.problems)


def test_adding_files_moves_no_other_file_to_another_side(tmp_path):
    for index in range(12):
        write(tmp_path / f"{index:02d}.wav", sound(index, 0.3))
    before = {entry.path: entry.split for entry in scan(tmp_path, workers=1, valid=0.3, test=0.3).manifest}
    for index in range(12, 20):
        write(tmp_path / f"0{index}.wav", sound(index, 0.3))
    after = {entry.path: entry.split for entry in scan(tmp_path, workers=1, valid=0.3, test=0.3).manifest}
    assert {path: after[path] for path in before} == before and len(set(before.values())) > 1


def test_source_from_the_stem_or_the_folder(tmp_path):
    for name in ("a/take_01.wav", "a/take_02.wav", "a/other.wav", "b/take_01.wav"):
        write(tmp_path / name, sound(len(name) + ord(name[0]) + ord(name[-5]), 0.3))

    def sources(how):
        return [entry.source for entry in scan(tmp_path, workers=1, source=how).manifest]

    assert sources("file") == ["a/other", "a/take_01", "a/take_02", "b/take_01"]
    assert sources("stem") == ["a/other", "a/take", "a/take", "b/take"]
    assert sources("folder") == ["a", "a", "a", "b"]


def test_copies_are_found_and_different_sounds_are_not(tmp_path):
    original = sound(1, 3.0)
    for seed in range(2, 8):
        write(tmp_path / f"{seed}.wav", sound(seed, 3.0))
    write(tmp_path / "1 original.wav", (original * 32767).astype(np.int16))
    copies = {
        "1 quieter.flac": original * 0.2, "1 upside down.wav": -original, "1 trimmed.wav": original[4000:-3000],
    }
    for name, samples in copies.items():
        write(tmp_path / name, samples)
    write(tmp_path / "1 vorbis.ogg", original)
    write(tmp_path / "1 mpeg.mp3", original)
    write(tmp_path / "1 opus.opus", original, format="OGG", subtype="OPUS")
    write(tmp_path / "1 doubled.wav", np.repeat(original, 2), 2 * RATE)  # another rate
    write(tmp_path / "1 same samples.flac", (original * 32767).astype(np.int16))
    entries = by_path(scan(tmp_path, workers=1))
    assert {entry.duplicate_of for path, entry in entries.items() if path[0] == "1"} == {None, "1 doubled.wav"}
    assert sum(entry.duplicate_of is None for path, entry in entries.items() if path[0] == "1") == 1
    assert all(entry.duplicate_of is None for path, entry in entries.items() if not path[0] == "1")
    equal = by_path(scan(tmp_path, workers=1, near_duplicates=False))
    assert [path for path, entry in equal.items() if entry.duplicate_of] == ["1 same samples.flac"]


def test_correlation_finds_the_lag_and_ignores_common_silence():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(4000), rng.standard_normal(4000)
    assert duplicates.correlation(a, -0.1 * a[777:3500]) == pytest.approx(1.0, abs=1e-6)
    assert duplicates.correlation(a, b) < 0.2
    tail = 0.001 * rng.standard_normal(4000)
    assert duplicates.correlation(np.concatenate([a, tail]), np.concatenate([b, tail])) < 0.2
    assert duplicates.correlation(a, 0 * a) == 0.0


def test_near_pairs_equal_a_double_loop():
    points = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32) * 3
    distance = np.sqrt(((points[:, None] - points) ** 2).mean(axis=2))
    expected = [(i, j) for i in range(40) for j in range(i + 1, 40) if distance[i, j] <= 3.0]
    assert duplicates.near_pairs(points, near_db=3.0, neighbours=40) == expected and 10 < len(expected) < 700
