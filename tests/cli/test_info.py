from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import audiogen as package
import vocoders
from audiogen.core.checkpoint import checkpoint_hash, save_checkpoint
from audiogen.core.hub import folder_hash
from audiogen.core.mel_format import MelFormat
from audiogen.ops import library


@dataclass(frozen=True)
class TinyConfig:
    mel: MelFormat = MelFormat()


class Tiny(nn.Module):
    config_type = TinyConfig

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.layer = nn.Linear(1, 1)


def test_tells_versions_machine_and_where_it_looked(audiogen):
    said = audiogen("info")
    assert said.code == 0
    for part in (package.__version__, torch.__version__, f"{torch.get_num_threads()} of", "pretrained"):
        assert part in said.out
    assert library.state() in next(line for line in said.out.splitlines() if line.startswith("kernels"))


def test_tells_styles_hash_mel_format_and_licence_of_a_checkpoint(audiogen, monkeypatch):
    monkeypatch.setitem(vocoders.TABLE, "tiny", f"{__name__}:Tiny")
    save_checkpoint("engine/vocoder", Tiny(TinyConfig()), room="vocoder", card="---\nlicense: cc-by-4.0\n---\n# Card",
                    labels={"vocabulary": {"styles": ["cello", "rain"]}})
    values = json.loads(audiogen("info", "--checkpoint", "engine", "--json").out)
    assert values["checkpoints"] == [{
        "folder": "engine/vocoder", "room": "vocoder", "name": "tiny", "hash": checkpoint_hash("engine/vocoder"),
        "licence": "cc-by-4.0", "mel": MelFormat().hash(), "styles": ["cello", "rain"],
    }]
    assert values["hash"] == folder_hash(Path("engine")) and len(values["hash"]) == 64
    said = audiogen("info", "--checkpoint", "engine").out
    for part in (values["hash"], "cello, rain", checkpoint_hash("engine/vocoder"), "cc-by-4.0"):
        assert part in said


def test_a_corrupt_checkpoint_is_told_and_the_rest_still_shown(audiogen, tmp_path):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "config.json").write_text("{")
    said = audiogen("info", "--checkpoint", "engine")
    assert said.code == 0 and "config.json is corrupt" in said.out and "torch" in said.out


def test_a_folder_without_a_checkpoint_is_one_clear_line(audiogen, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no checkpoint" in audiogen("info", "--checkpoint", "empty").err
    assert "no checkpoint folder at nowhere" in audiogen("info", "--checkpoint", "nowhere").err
