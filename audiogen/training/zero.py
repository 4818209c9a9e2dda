"""DeepSpeed's ZeRO, stages 1 and 2: every process keeps the weights, and a share of the moments and gradients.

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", section 5. Weights stay
float32 and arithmetic is cast as under DDP, so that a state is the same as any other: it is written as whole tensors
and can be gone on from with DDP, FSDP2 or another number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from audiogen.core.errors import UserError
from audiogen.training.config import TrainConfig
from audiogen.training.updates import Updates, cast_of

MOMENTS = ("exp_avg", "exp_avg_sq")


class Zero(Updates):
    """DeepSpeed's engine. It reduces gradients while they come, so a backward pass cannot be repeated."""

    can_repeat = False

    def __init__(self, accelerator: Any, config: TrainConfig, agreed: Callable[[bool], bool]) -> None:
        super().__init__(accelerator, config, agreed)
        asked = accelerator.state.deepspeed_plugin.deepspeed_config
        stage = asked.get("zero_optimization", {})
        if stage.get("stage") not in (1, 2) or any(
            stage.get(f"offload_{what}", {}).get("device", "none") != "none" for what in ("optimizer", "param")
        ):
            raise UserError("DeepSpeed is supported with zero_stage 1 or 2 and without offloading; for models whose "
                            "weights are too large for one GPU use FSDP2 (recipes/launch/fsdp.yaml)")
        self.cast = cast_of(accelerator)
        asked |= {
            "train_micro_batch_size_per_gpu": config.batch_size // config.accumulation // accelerator.num_processes,
            "gradient_accumulation_steps": 1,  # for its accounts only: the loop says which micro-batch is the last
            "gradient_clipping": config.clip, "bf16": {"enabled": False}, "fp16": {"enabled": False},
        }

    def micro(self, turn: nn.Module, last: bool) -> AbstractContextManager:
        turn.set_gradient_accumulation_boundary(is_boundary=last)
        return nullcontext()

    def backward(self, turn: nn.Module, loss: Tensor) -> None:
        # The engine skips an update by its gradients, so these must tell of a loss that is not finite.
        turn.backward(loss if bool(torch.isfinite(loss)) else loss * math.nan, scale_wrt_gas=False)

    def step(self, turn: nn.Module, optimizer: Any, loss: Tensor) -> tuple[Tensor, bool]:
        turn.step()
        return torch.as_tensor(turn.get_global_grad_norm()), not turn.was_step_applied()

    def clear(self, optimizer: Any) -> None:
        """The engine has done it."""

    def moments(self, turn: nn.Module, optimizer: Any) -> _Moments:
        return _Moments(turn)


class _Moments:
    """AdamW's moments, gathered from all processes and dealt to them again."""

    def __init__(self, engine: Any) -> None:
        self.zero = engine.optimizer
        self.parameters = [p for p in engine.module.parameters() if p.requires_grad]

    @property
    def param_groups(self) -> list[dict]:
        (group,) = self.zero.optimizer.param_groups
        return [{**group, "params": self.parameters}]

    def state_dict(self) -> dict:
        """As torch's AdamW gives it for these parameters. Collective."""
        from deepspeed.utils import safe_get_full_optimizer_state

        (group,) = self.param_groups
        kept = self.zero.optimizer.state.get(self.zero.single_partition_of_fp32_groups[0])
        state = {}
        for index, parameter in enumerate(self.parameters if kept else ()):
            state[index] = {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
            state[index]["step"] = torch.as_tensor(kept["step"])
        return {"state": state, "param_groups": [{**group, "params": list(range(len(self.parameters)))}]}

    def load_state_dict(self, values: dict) -> None:
        """Weights must have been loaded before: the engine's own copies of them are made here."""
        from deepspeed.utils import safe_set_full_optimizer_state

        self.zero.refresh_fp32_params()
        (flat,) = self.zero.single_partition_of_fp32_groups
        (group,), (saved,) = self.zero.optimizer.param_groups, values["param_groups"]
        group.update({key: value for key, value in saved.items() if key != "params"})
        self.zero.optimizer.state.pop(flat, None)
        if not values["state"]:
            return
        step = torch.as_tensor(values["state"][0]["step"]).clone().to(flat.device if group.get("fused") else "cpu")
        self.zero.optimizer.state[flat] = {"step": step} | {key: torch.zeros_like(flat) for key in MOMENTS}
        self.zero._hp_optimizer_states_linked = False
        self.zero._lazy_init_hp_params_optimizer_state()
        for index, parameter in enumerate(self.parameters):
            for key in MOMENTS:
                safe_set_full_optimizer_state(parameter, values["state"][index][key].to(flat), key)
