"""What is asked of FSDP2 and DeepSpeed; that they learn the same is in test_processes.py and the contracts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from audiogen.core.errors import UserError
from audiogen.training.config import TrainConfig
from audiogen.training.updates import Sharded, blocks
from audiogen.training.zero import Zero

CONFIG = TrainConfig(run=Path("run"), batch_size=16, accumulation=2, clip=0.7)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())


def accelerator(precision: str = "no", **zero) -> SimpleNamespace:
    plugin = SimpleNamespace(deepspeed_config={"zero_optimization": {"stage": 2, **zero}})
    sharding = SimpleNamespace(mixed_precision_policy="theirs", fsdp_version=2)
    return SimpleNamespace(
        mixed_precision=precision, num_processes=4, distributed_type=SimpleNamespace(value="FSDP"),
        state=SimpleNamespace(deepspeed_plugin=plugin, fsdp_plugin=sharding),
    )


def test_blocks_are_the_members_of_lists_that_have_parts_of_their_own():
    stack = nn.ModuleList([Layer(), Layer()])
    model = nn.ModuleDict({"stack": stack, "heads": nn.ModuleList([nn.Linear(2, 2)]), "alone": Layer(),
                           "nested": nn.Sequential(nn.Sequential(nn.Linear(2, 2)))})
    assert blocks(model) == list(stack)


@pytest.mark.parametrize("changes, said", [
    ({"stage": 3}, "zero_stage 1 or 2"), ({"stage": 0}, "zero_stage 1 or 2"),
    ({"offload_optimizer": {"device": "cpu"}}, "without offloading"),
    ({"offload_param": {"device": "nvme"}}, "without offloading"),
])
def test_what_deepspeed_is_not_supported_for_is_one_line_with_the_way_out(changes, said):
    with pytest.raises(UserError, match=f"{said}.*fsdp.yaml"):
        Zero(accelerator(**changes), CONFIG, bool)


def test_the_first_version_of_fsdp_is_refused():
    asked = accelerator()
    asked.state.fsdp_plugin.fsdp_version = 1
    with pytest.raises(UserError, match="fsdp_version to 2"):
        Sharded(asked, CONFIG, bool)


@pytest.mark.parametrize("kind", [Zero, Sharded])
def test_half_precision_with_a_loss_scale_is_refused_where_it_is_not_supported(kind):
    with pytest.raises(UserError, match="precision fp16 with FSDP: choose bf16 or fp32"):
        kind(accelerator("fp16"), CONFIG, bool)


def test_the_recipe_decides_over_the_launch_file():
    asked = accelerator("bf16", stage=1, offload_optimizer={"device": "none"})
    assert Zero(asked, CONFIG, bool).cast == torch.bfloat16
    found = asked.state.deepspeed_plugin.deepspeed_config
    assert found["train_micro_batch_size_per_gpu"] == 2 and found["gradient_clipping"] == 0.7
    assert found["bf16"] == found["fp16"] == {"enabled": False}  # weights stay float32
    sharded = accelerator("bf16")
    assert Sharded(sharded, CONFIG, bool).cast == torch.bfloat16
    assert sharded.state.fsdp_plugin.mixed_precision_policy is None
