"""The whole state of a training run in one folder: state.safetensors and state.json, no pickle.

Randomness and the data's position are functions of (seed, step), so weights, moments and the step number are all there
is to keep. Folders are written beside and renamed when complete; a folder that exists is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from audiogen.core.checkpoint import load_state
from audiogen.core.errors import UserError
from audiogen.core.files import whole_folder


def save_state(
    folder: Path, *, step: int, modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer], extra: dict
) -> None:
    """Write everything that the next step depends on."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            tensors[f"module/{name}/{key}"] = value.detach().cpu().contiguous().clone()
    groups = {}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        groups[name] = state["param_groups"]
        for index, values in state["state"].items():
            for key, value in values.items():
                tensors[f"optimizer/{name}/{index}/{key}"] = torch.as_tensor(value).detach().cpu().contiguous().clone()
    with whole_folder(folder) as part:
        save_file(tensors, part / "state.safetensors")
        values = {"step": step, "param_groups": groups, "extra": extra, "sha256": _sha256(part / "state.safetensors")}
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
        load_state(module, own, what=f"{folder} ({name})")
    for name, optimizer in optimizers.items():
        if name not in values["param_groups"]:
            raise UserError(f"{folder} has no optimizer {name!r}: it is the state of another training task")
        prefix = f"optimizer/{name}/"
        state: dict[int, dict] = {}
        for key, value in tensors.items():
            if key.startswith(prefix):
                index, field = key[len(prefix) :].split("/")
                state.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": values["param_groups"][name]})
    return values["step"], values["extra"]


def newest_state(folder: Path) -> Path | None:
    """The newest complete and undamaged state under `folder`; damaged ones are passed over, saying so."""
    for candidate in sorted(folder.glob("step_*"), reverse=True):
        try:
            values = json.loads((candidate / "state.json").read_text())
            if values["sha256"] == _sha256(candidate / "state.safetensors"):
                return candidate
            reason = "its checksum does not match"
        except (OSError, ValueError, KeyError) as error:
            reason = str(error)
        print(f"passing over the damaged training state {candidate.name}: {reason}")
    return None


def forget_old_states(folder: Path, *, keep: int) -> None:
    """Remove all but the `keep` newest states."""
    for old in sorted(folder.glob("step_*"), reverse=True)[keep:]:
        shutil.rmtree(old, ignore_errors=True)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
