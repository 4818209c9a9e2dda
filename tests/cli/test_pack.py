"""audiogen pack, as a person calls it."""

from __future__ import annotations

from data.packing import sounds

from audiogen.cli import main
from audiogen.data.manifest import write_manifest


def test_pack_and_verify_and_what_goes_wrong(tmp_path, capsys):
    manifest = sounds(tmp_path, (0.6, 0.5))
    write_manifest(tmp_path / "manifest.jsonl", manifest, root=tmp_path)
    words = ["pack", str(tmp_path / "manifest.jsonl"), "-o", str(tmp_path / "shards")]
    words += ["--what", "mel", "--workers", "1"]
    assert main(words) == 0
    assert "2 pieces, 0.0 minutes of mel in 1 shards" in capsys.readouterr().out
    assert main(words) == 0
    assert "0 made now" in capsys.readouterr().out
    assert main(["pack", "--verify", str(tmp_path / "shards")]) == 0
    assert "all 1 shards are whole" in capsys.readouterr().out
    shard = tmp_path / "shards" / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert main(["pack", "--verify", str(tmp_path / "shards")]) != 0
    told = capsys.readouterr()
    assert "train-000000.tar has" in told.out and "1 of 1 shards" in told.err
    assert main([*words, "--mel", "hifigan_22k"]) != 0
    assert "other files or settings" in capsys.readouterr().err
    assert main(["pack"]) != 0
    assert "name the manifest" in capsys.readouterr().err
