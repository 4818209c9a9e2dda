from __future__ import annotations

import json
import sys

import pytest

import vocoders
from audiogen.core.errors import UserError
from audiogen.core.registry import ROOMS, name_of, resolve, table


def test_a_name_leads_to_its_class_and_back(monkeypatch):
    monkeypatch.setitem(vocoders.TABLE, "decoder", "json.decoder:JSONDecoder")
    assert resolve("vocoder", "decoder") is json.JSONDecoder
    assert name_of("vocoder", json.JSONDecoder) == "decoder"


def test_nothing_is_imported_until_it_is_asked_for(monkeypatch, tmp_path):
    (tmp_path / "a_lazy_vocoder.py").write_text("class Lazy: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(vocoders.TABLE, "lazy", "a_lazy_vocoder:Lazy")
    assert "lazy" in table("vocoder") and "a_lazy_vocoder" not in sys.modules
    assert resolve("vocoder", "lazy").__name__ == "Lazy"
    monkeypatch.delitem(sys.modules, "a_lazy_vocoder")


def test_unknown_names_rooms_and_classes_are_user_errors_with_the_nearest():
    with pytest.raises(UserError, match="no vocoder is called 'grifin_lim'; did you mean 'griffin_lim'"):
        resolve("vocoder", "grifin_lim")
    with pytest.raises(UserError, match="no room 'vocoders'; did you mean 'vocoder'"):
        resolve("vocoders", "griffin_lim")
    with pytest.raises(UserError, match="builtins:int has no entry"):
        name_of("vocoder", int)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_table_of_names_and_targets(room):
    for name, target in table(room).items():
        module, colon, attribute = target.partition(":")
        assert name.isidentifier() and name == name.lower()
        assert colon and module.startswith(ROOMS[room]) and attribute.isidentifier()
