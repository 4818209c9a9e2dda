"""A hub repository is pinned by its revision, and a clip says which commit made it. Nothing goes to the network."""

from __future__ import annotations

import huggingface_hub
import pytest
from tiny_engine import load_words, save_engine

from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.pipeline import Engine

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that gives one repository, and notes what it was asked for."""
    asked = []
    folder = save_engine(tmp_path / "models--me--engine" / "snapshots" / COMMIT, load_words())

    def snapshot_download(name, *, revision=None, allow_patterns=None):
        asked.append((name, revision, allow_patterns))
        if revision == "nowhere":
            raise OSError("no such revision")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_the_revision_is_asked_for_and_the_commit_noted(hub):
    for name, revision in [("me/engine", None), (f"me/engine@{COMMIT}", COMMIT), ("me/engine@v1", "v1")]:
        engine = Engine.from_pretrained(name)
        assert hub[-1][:2] == ("me/engine", revision) and engine.hub == f"me/engine@{COMMIT}"
    assert engine.generate(Prompt("rain", seconds=0.3), seed=0).made_by["hub"] == f"me/engine@{COMMIT}"


def test_only_files_without_code_are_fetched(hub):
    Engine.from_pretrained("me/engine")
    assert set(hub[-1][2]) == {"*.json", "*.safetensors", "*.md"}


def test_a_revision_that_is_not_there_is_named(hub):
    with pytest.raises(UserError, match="'me/engine@nowhere' is no folder here.*no such revision"):
        Engine.from_pretrained("me/engine@nowhere")
