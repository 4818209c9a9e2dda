from __future__ import annotations

import json
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import vocoders
from audiogen.core.checkpoint import checkpoint_hash, load_checkpoint, load_state, read_config, save_checkpoint
from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat


@dataclass(frozen=True)
class TinyConfig:
    mel: MelFormat = MelFormat()
    widths: tuple[int, ...] = (3, 5)


class Tiny(nn.Module):
    config_type = TinyConfig

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.first = nn.Linear(config.widths[0], config.widths[1])
        self.norm = nn.BatchNorm1d(config.widths[1])


@pytest.fixture(autouse=True)
def in_the_table(monkeypatch):
    monkeypatch.setitem(vocoders.TABLE, "tiny", f"{__name__}:Tiny")


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    save_checkpoint(
        tmp_path / "model", Tiny(TinyConfig(MelFormat(n_mels=40), (4, 7))), room="vocoder",
        labels={"styles": ["piano", "Geige", "古琴"]}, card="# Karte ♪", scores={"mel_l1": 0.5},
    )
    return tmp_path / "model"


def test_comes_back_with_its_config_weights_labels_card_and_scores(folder):
    torch.manual_seed(0)
    saved = Tiny(TinyConfig(MelFormat(n_mels=40), (4, 7)))
    loaded = load_checkpoint(folder, room="vocoder")
    assert type(loaded.model) is Tiny and not loaded.model.training
    assert loaded.model.config == TinyConfig(MelFormat(n_mels=40), (4, 7))
    assert loaded.mel == MelFormat(n_mels=40)
    assert all(torch.equal(value, loaded.model.state_dict()[key]) for key, value in saved.state_dict().items())
    assert (loaded.room, loaded.name, loaded.labels) == ("vocoder", "tiny", {"styles": ["piano", "Geige", "古琴"]})
    assert (folder / "README.md").read_text(encoding="utf-8") == "# Karte ♪"
    assert json.loads((folder / "scores.json").read_text()) == {"mel_l1": 0.5}
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors", "scores.json"]


def test_other_weights_are_saved_in_the_models_place(tmp_path):
    model = Tiny(TinyConfig())
    average = {key: torch.full_like(value, 2) for key, value in model.state_dict().items()}
    save_checkpoint(tmp_path / "m", model, room="vocoder", weights=average)
    assert (load_checkpoint(tmp_path / "m").model.first.weight == 2).all()


def test_hash_depends_on_configuration_and_weights_and_not_on_the_card(folder):
    before = checkpoint_hash(folder)
    assert len(before) == 12 and int(before, 16) >= 0
    (folder / "README.md").write_text("another card")
    assert checkpoint_hash(folder) == before == load_checkpoint(folder).hash
    for name in ("config.json", "model.safetensors"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        assert checkpoint_hash(folder) != before
        (folder / name).write_bytes(content)


def test_all_missing_unexpected_and_misshapen_keys_are_in_one_error():
    model = Tiny(TinyConfig())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = model.state_dict()
    del state["first.bias"], state["norm.weight"]
    state |= {"second.weight": torch.zeros(1), "third": torch.zeros(2), "first.weight": torch.zeros(9, 9)}
    with pytest.raises(UserError) as caught:
        load_state(model, state, what="runs/x")
    message = str(caught.value)
    for part in ("runs/x", "Tiny", "missing: first.bias, norm.weight", "unexpected: second.weight, third",
                 "first.weight (9, 9) where (5, 3) is needed"):
        assert part in message
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "nothing was loaded"


def test_a_room_that_is_not_asked_for_is_refused(folder):
    with pytest.raises(UserError, match="holds a vocoder .tiny., not a generator"):
        load_checkpoint(folder, room="generator")


def test_no_folder_no_config_and_no_weights_are_told_apart(folder, tmp_path):
    with pytest.raises(UserError, match="no checkpoint folder at .*nowhere"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no config.json"):
        read_config(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no model.safetensors"):
        load_checkpoint(folder)


class Bomb:
    """Unpickling this would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "g_00100.pth", "last.ckpt"])
def test_a_pickle_is_named_and_never_opened(folder, tmp_path, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(UserError, match=f"{name} is a pickle, which is never read"):
        load_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="pickled .*never read"):
        load_checkpoint(folder)
    assert not (tmp_path / "boom").exists()


def test_a_pickle_under_the_name_of_safetensors_is_refused_unread(folder, tmp_path):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(UserError, match="corrupt or no safetensors"):
        load_checkpoint(folder)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_a_clear_error(folder, keep):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match="model.safetensors is corrupt"):
        load_checkpoint(folder)


@pytest.mark.parametrize("content, said", [
    (b"{", "corrupt"), (b"", "corrupt"), (b"\xff\xfe\x00", "corrupt"), (b"3", "corrupt"),
    (b"[]", "lacks config, format"),
    (b'{"format": 1}', "lacks config, name, room"),
    (b'{"format": 99, "room": "vocoder", "name": "tiny", "config": {}}', "newer audiogen"),
    (b'{"format": 1, "room": "vocoder", "name": "tinny", "config": {}}', "did you mean 'tiny'"),
    (b'{"format": 1, "room": "kitchen", "name": "tiny", "config": {}}', "no room 'kitchen'"),
    (b'{"format": 1, "room": "vocoder", "name": "tiny", "config": {"widhts": [1, 2]}}', "did you mean 'widths'"),
    (b'{"format": 1, "room": "vocoder", "name": "tiny", "config": {"mel": {"n_mels": "x"}}}', "MelFormat"),
])
def test_a_corrupt_or_foreign_config_is_one_clear_line(folder, content, said):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_an_error_while_saving_keeps_the_older_checkpoint(folder):
    before = checkpoint_hash(folder)
    with pytest.raises(TypeError):
        save_checkpoint(folder, Tiny(TinyConfig()), room="vocoder", labels={"x": object()})
    assert checkpoint_hash(folder) == before and len(list(folder.parent.iterdir())) == 1


def test_a_model_without_an_entry_in_the_table_cannot_be_saved(tmp_path, monkeypatch):
    monkeypatch.delitem(vocoders.TABLE, "tiny")
    with pytest.raises(UserError, match="no entry in the TABLE of vocoders"):
        save_checkpoint(tmp_path / "m", Tiny(TinyConfig()), room="vocoder")
    assert list(tmp_path.iterdir()) == []
