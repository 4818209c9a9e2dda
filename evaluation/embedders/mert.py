"""MERT (Li et al. 2024): a HuBERT trained on music; 768-d frames of its last layer, 75 a second.

A folder with m-a-p/MERT-v1-95M's config.json and its weights as model.safetensors. The checkpoint brings program code
of its own, which is not run: the network is the library's HuBERT, and the weights must fit it exactly.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from audiogen.core.errors import UserError
from evaluation.embedders.model_folder import find_folder, load_named, transformers

BLOCK = 30.0  # seconds that attend to each other at most, so that memory does not grow with the clip


class MERT(nn.Module):
    """24 kHz audio -> 768-d vectors, one every 320 samples."""

    name, version = "mert", 1
    sample_rate, dim = 24000, 768
    window, hop = 0.1, 320 / 24000
    note = "MERT, last layer; parity with the original unverified here (no weights at hand)"

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        folder, config, self.weights_sha256 = find_folder(
            self.name, source="m-a-p/MERT-v1-95M of the Hugging Face hub", weights=weights)
        library = transformers()
        if config.get("feature_extractor_cqt"):
            raise UserError(f"{folder}: a MERT with a constant-Q front end (330M) is no plain HuBERT")
        known = library.HubertConfig().to_dict()
        network = library.HubertModel(library.HubertConfig(
            **{name: value for name, value in config.items() if name in known and name != "model_type"}))
        from safetensors.torch import load_file

        self.model = load_named(network, _renamed(load_file(folder / "model.safetensors"), network), folder)
        self.dim = network.config.hidden_size
        self.normalised = True
        front_end = folder / "preprocessor_config.json"
        if front_end.is_file():
            self.normalised = bool(json.loads(front_end.read_text()).get("do_normalize", True))

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """audio (batch, time) float32 at 24 kHz -> (batch, frames, 768)."""
        if audio.shape[1] < round(self.window * self.sample_rate):
            return audio.new_zeros(len(audio), 0, self.dim)
        if self.normalised:  # Wav2Vec2FeatureExtractor: each clip to mean 0, variance 1
            audio = (audio - audio.mean(1, keepdim=True)) / (audio.var(1, keepdim=True, correction=0) + 1e-7).sqrt()
        parts = [part for part in audio.split(round(BLOCK * self.sample_rate), dim=1)
                 if part.shape[1] >= round(self.window * self.sample_rate)]
        return torch.cat([self.model(part).last_hidden_state for part in parts], dim=1)


def _renamed(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The weight norm of the positional convolution under the name that this torch has for it."""
    old = "encoder.pos_conv_embed.conv.weight_"
    new = "encoder.pos_conv_embed.conv.parametrizations.weight.original"
    renamed = {old + "g": new + "0", old + "v": new + "1"} if new + "0" in network.state_dict() else {}
    return {renamed.get(name, name): value for name, value in state.items()}
