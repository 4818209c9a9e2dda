from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from audiogen.core.config import did_you_mean, from_dict, to_dict
from audiogen.core.errors import UserError


@dataclass(frozen=True)
class Block:
    width: int
    dilations: tuple[int, ...] = (1, 2)
    name: str | None = None


@dataclass(frozen=True)
class Model:
    block: Block
    either: Block | None = None
    pair: tuple[float, str] = (0.5, "a")
    interval: tuple[float, float] | None = None
    blocks: tuple[Block, ...] = ()
    options: dict[str, float] | None = None


FULL = Model(
    Block(3, (1, 2, 4), "größe"), Block(1), (1.5, "b"), (0.1, 0.9), (Block(5), Block(6, ())), {"a": 1.0},
)


@pytest.mark.parametrize("config", [FULL, Model(Block(1))])
def test_a_config_comes_back_from_json_as_it_was(config):
    back = from_dict(Model, json.loads(json.dumps(to_dict(config))))
    assert back == config
    assert isinstance(back.block, Block) and isinstance(back.block.dilations, tuple)


@pytest.mark.parametrize("values, said", [
    ({"block": {"width": 1}, "blok": 1}, "Model has no field 'blok'; did you mean 'block'"),
    ({"block": {"widht": 1}}, "Block has no field 'widht'; did you mean 'width'"),
    ({"block": {"width": 1}, "either": {"width": 1, "dilation": [1]}}, "Block has no field 'dilation'.*'dilations'"),
    ({"block": {"width": 1}, "blocks": [{"wide": 1}]}, "Block has no field 'wide'"),
    ({"block": {}}, "Block: .*width"),
    ({}, "Model: .*block"),
    ([], "expected an object"), (None, "expected an object"), ("x", "expected an object"),
])
def test_unknown_and_missing_fields_are_errors_that_name_them_at_any_depth(values, said):
    with pytest.raises(UserError, match=said):
        from_dict(Model, values)


def test_did_you_mean_names_what_is_near_or_else_everything():
    known = ["euler", "heun", "ddim"]
    assert did_you_mean("eular", known) == "; did you mean 'euler'?"
    assert did_you_mean("xyz", known) == "; known: ddim, euler, heun"
    assert did_you_mean("xyz", []) == ""
