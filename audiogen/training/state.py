"""The whole state of a training run in one folder: state.safetensors and state.json, no pickle.

Randomness and the data's position are functions of (seed, step), so weights, moments and the step number are all there
is to keep. Folders are written beside and renamed when complete; a folder that exists is complete.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from audiogen.core.checkpoint import load_state
from audiogen.core.errors import UserError
from audiogen.core.files import sha256_of, whole_folder


def whole(value: Tensor) -> Tensor:
    """A tensor that may be sharded over the processes (a DTensor) as one; collective where it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def sharded_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on every process, cut as `like` is."""
    if not hasattr(like, "full_tensor") or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def save_state(
    folder: Path,
    *,
    step: int,
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    extra: dict,
    write: bool = True,
) -> None:
    """Write everything that the next step depends on. Every process calls this; those with `write` write."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}

    def keep(key: str, value: Tensor) -> None:
        value = whole(value.detach())
        if write:
            tensors[key] = value.cpu().contiguous().clone()

    for name, module in modules.items():
        for key, value in module.state_dict().items():
            keep(f"module/{name}/{key}", value)
    groups = {}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        groups[name] = state["param_groups"]
        for index, values in state["state"].items():
            for key, value in values.items():
                keep(f"optimizer/{name}/{index}/{key}", torch.as_tensor(value))
    if not write:
        return
    with whole_folder(folder) as part:
        save_file(tensors, part / "state.safetensors")
        values = {"step": step, "param_groups": groups, "extra": extra, "sha256": sha256_of(part / "state.safetensors")}
        (part / "state.json").write_text(json.dumps(values))


def load_state_folder(
    folder: Path, *, modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]
) -> tuple[int, dict]:
    """-> (step, extra). Every module and optimizer gets back exactly what it had."""
    from safetensors.torch import load_file

    values = json.loads((folder / "state.json").read_text())
    tensors = load_file(folder / "state.safetensors")
    for name, module in modules.items():
        prefix = f"module/{name}/"
        own = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        there = module.state_dict()
        own = {key: sharded_like(value, there[key]) if key in there else value for key, value in own.items()}
        load_state(module, own, what=f"{folder} ({name})")
    for name, optimizer in optimizers.items():
        if name not in values["param_groups"]:
            raise UserError(f"{folder} has no optimizer {name!r}: it is the state of another training task")
        prefix = f"optimizer/{name}/"
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state: dict[int, dict] = {}
        for key, value in tensors.items():
            if key.startswith(prefix):
                index, field = key[len(prefix) :].split("/")
                state.setdefault(int(index), {})[field] = sharded_like(value, parameters[int(index)])
        optimizer.load_state_dict({"state": state, "param_groups": values["param_groups"][name]})
    return values["step"], values["extra"]


def newest_state(folder: Path) -> Path | None:
    """The newest complete and undamaged state under `folder`; damaged ones are passed over, saying so."""
    for candidate in sorted(folder.glob("step_*"), reverse=True):
        try:
            values = json.loads((candidate / "state.json").read_text())
            if values["sha256"] == sha256_of(candidate / "state.safetensors"):
                return candidate
            reason = "its checksum does not match"
        except (OSError, ValueError, KeyError) as error:
            reason = str(error)
        print(f"passing over the damaged training state {candidate.name}: {reason}")
    return None


def forget_old_states(folder: Path, *, keep: int, keep_every: int = 0) -> None:
    """Remove all but the `keep` newest states and those of the steps that `keep_every` divides; and what a run that
    was killed while it wrote has left half done."""
    for old in sorted(folder.glob("step_*"), reverse=True)[keep:]:
        if not keep_every or int(old.name.removeprefix("step_")) % keep_every:
            shutil.rmtree(old, ignore_errors=True)
    for half in (*folder.glob(".step_*.part"), *folder.glob(".step_*.old")):
        shutil.rmtree(half, ignore_errors=True)
