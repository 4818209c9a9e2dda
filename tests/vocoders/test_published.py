"""Reading published weights: no code is run, weight norms are folded, nothing is lost on the way."""

from __future__ import annotations

import json

import pytest
import torch
from golden.made_states import made_state
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from audiogen.core.errors import UserError
from vocoders.published import fold_weight_norm, load_published, read_settings, read_weights


@pytest.mark.parametrize("layer", [nn.Conv1d(3, 5, 7), nn.ConvTranspose1d(6, 2, 4), nn.Conv2d(1, 2, (3, 5))])
def test_folding_gives_the_weight_that_the_layer_uses(layer):
    normed = weight_norm(layer)
    with torch.no_grad():
        normed.parametrizations.weight.original0.mul_(1.7)
    expected = normed.weight.detach().clone()
    state = normed.state_dict()
    gain, direction = (state[f"parametrizations.weight.original{i}"] for i in (0, 1))
    old = {"weight_g": gain, "weight_v": direction}
    for spelling in (state, {f"x.{k}": v for k, v in old.items()} | {"x.bias": state["bias"]}, {"weight": expected}):
        folded = fold_weight_norm({k if k.startswith("x.") else f"x.{k}": v for k, v in spelling.items()})
        assert torch.allclose(folded["x.weight"], expected, atol=1e-7)
        assert set(folded) <= {"x.weight", "x.bias"}


@pytest.mark.parametrize("lonely", ["a.weight_g", "a.weight_v", "a.parametrizations.weight.original0",
                                    "a.parametrizations.weight.original1"])
def test_half_a_weight_norm_is_an_error(lonely):
    with pytest.raises(UserError, match="a.*incomplete"):
        fold_weight_norm({lonely: torch.ones(2, 1, 1)})


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"model": nn.Conv1d(1, 1, 1)}, tmp_path / "whole_model.pt")
    with pytest.raises(UserError, match="run code"):
        read_weights(tmp_path / "whole_model.pt")


def test_text_truncated_and_missing_files_are_one_clear_error(tmp_path):
    torch.save({"generator": made_state({"a.weight": (4, 4)})}, tmp_path / "g")
    assert read_weights(tmp_path / "g")["generator"]["a.weight"].shape == (4, 4)
    (tmp_path / "short").write_bytes((tmp_path / "g").read_bytes()[:200])
    (tmp_path / "text.pt").write_text("hello")
    for name in ("short", "text.pt"):
        with pytest.raises(UserError, match=name):
            read_weights(tmp_path / name)
    with pytest.raises(UserError, match="no weights file"):
        read_weights(tmp_path / "none.pt")


def test_settings_are_read_from_json_and_yaml(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"hop": 256}))
    (tmp_path / "a.yml").write_text("hop: 256\n")
    assert read_settings(tmp_path / "a.json") == read_settings(tmp_path / "a.yml") == {"hop": 256}
    (tmp_path / "b.json").write_text("{")
    for name in ("b.json", "none.yml"):
        with pytest.raises(UserError, match=name):
            read_settings(tmp_path / name)


def test_missing_and_unexpected_keys_are_listed_together():
    with pytest.raises(UserError, match="missing: bias; unexpected: b.bias"):
        load_published(nn.Conv1d(1, 1, 1), {"weight": torch.ones(1, 1, 1), "b.bias": torch.ones(1)}, what="g_001")
