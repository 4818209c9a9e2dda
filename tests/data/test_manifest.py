"""What is written comes back; what is corrupt is named with its line."""

from __future__ import annotations

import shutil

import pytest

from audiogen.core.errors import UserError
from audiogen.data.manifest import Entry, read_manifest, write_manifest


def entries() -> list[Entry]:
    return [
        Entry("klänge/a b.flac", 1.5, 44100, 2, loudness=-20.5, peak_db=-3.0, hash="ab", text="ein 🎹 Klang",
              tags={"licence": "CC0-1.0", "genre": ["jazz", "blues"]}, styles=("grand piano",), score="a b.mid",
              source="x", split="valid"),
        Entry("b.wav", 12345 / 44100, 44100, 1, duplicate_of="klänge/a b.flac"),
    ]


def test_entries_come_back_equal_and_sample_counts_exactly(tmp_path):
    write_manifest(tmp_path / "m.jsonl", entries(), root=tmp_path / "sounds")
    back = read_manifest(tmp_path / "m.jsonl")
    assert back.entries[0] == entries()[0]
    assert back.entries[1].time == 12345
    assert back.audio(back.entries[0]) == tmp_path / "sounds" / "klänge" / "a b.flac"
    assert back.score(back.entries[0]) == tmp_path / "sounds" / "a b.mid"
    assert back.score(back.entries[1]) is None


@pytest.mark.parametrize("seconds, rate", [(1 / 384000 * 7, 384000), (3600 * 5 + 1 / 192000, 192000), (0.458, 8000)])
def test_the_sample_count_survives_the_rounding_of_seconds(tmp_path, seconds, rate):
    write_manifest(tmp_path / "m.jsonl", [Entry("a", seconds, rate, 1)])
    assert read_manifest(tmp_path / "m.jsonl").entries[0].time == round(seconds * rate)


def test_a_folder_moves_with_the_manifest_inside_it(tmp_path):
    write_manifest(tmp_path / "old" / "m.jsonl", entries(), root=tmp_path / "old")
    shutil.move(tmp_path / "old", tmp_path / "new")
    back = read_manifest(tmp_path / "new" / "m.jsonl")
    assert back.audio(back.entries[1]) == tmp_path / "new" / "b.wav"


def test_a_manifest_elsewhere_names_its_root_absolutely(tmp_path):
    write_manifest(tmp_path / "one" / "m.jsonl", entries(), root=tmp_path / "two")
    shutil.copy(tmp_path / "one" / "m.jsonl", tmp_path / "three.jsonl")
    back = read_manifest(tmp_path / "three.jsonl")
    assert back.audio(back.entries[1]) == tmp_path / "two" / "b.wav"


@pytest.mark.parametrize("line, reason", [
    ('{"path": "c.wav", "seconds": 1.0, ', "line 3"),
    ('{"path": "c.wav"}', "seconds"),
    ('{"path": "c.wav", "seconds": 1.0, "sample_rate": 8000, "channels": 1, "lodness": 2}', "loudness"),
    ("[1, 2]", "list"),
    ('{"path": "c.wav", "seconds": 1.0, "sample_rate": 8000, "channels": 1, "split": "dev"}', "'dev'"),
])
def test_a_corrupt_line_is_one_error_with_its_number(tmp_path, line, reason):
    path = tmp_path / "m.jsonl"
    write_manifest(path, entries()[:1])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=reason) as error:
        read_manifest(path)
    assert "\n" not in str(error.value) and ("line 3" in str(error.value) or "dev" in reason)


def test_a_manifest_that_was_cut_is_noticed(tmp_path):
    path = tmp_path / "m.jsonl"
    write_manifest(path, entries())
    path.write_text("\n".join(path.read_text().split("\n")[:2]))
    with pytest.raises(UserError, match="1 files where its header says 2"):
        read_manifest(path)


def test_selecting_by_split_style_and_duplicates(tmp_path):
    manifest = write_manifest(tmp_path / "m.jsonl", entries())
    assert [e.path for e in manifest.select(split="train")] == ["b.wav"]
    assert [e.path for e in manifest.select(styles=["grand piano"])] == ["klänge/a b.flac"]
    assert [e.path for e in manifest.select(duplicates=False)] == ["klänge/a b.flac"]
    with pytest.raises(UserError, match="did you mean 'grand piano'"):
        manifest.select(styles=["grand pian"])
