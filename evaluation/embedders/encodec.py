"""EnCodec (Défossez et al. 2022): the encoder's 128-d frames, before they are quantised; 75 a second at 24 kHz.

A folder of the library transformers (facebook/encodec_24khz). Every frame is a row, as fadtk and gudgud96 have it; the
frames of one clip are nearly copies of each other, which the intervals know, for they leave out whole clips.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from audiogen.core.errors import UserError
from evaluation.embedders.model_folder import find_folder, load_exactly, transformers


class EnCodec(nn.Module):
    """24 kHz audio -> 128-d vectors, one a frame of 320 samples."""

    name, version = "encodec", 1
    sample_rate, dim = 24000, 128
    window, hop = 320 / 24000, 320 / 24000
    note = "EnCodec 24 kHz, encoder output; parity with the original unverified here (no weights at hand)"

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        folder, config, self.weights_sha256 = find_folder(
            self.name, source="facebook/encodec_24khz of the Hugging Face hub", weights=weights)
        if config.get("model_type") != "encodec" or config.get("sampling_rate") != self.sample_rate:
            raise UserError(f"{folder} is no EnCodec of {self.sample_rate} Hz, but {config.get('model_type')!r} of "
                            f"{config.get('sampling_rate')} Hz")
        self.model = load_exactly(transformers().EncodecModel, folder)
        self.dim = self.model.config.hidden_size

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """audio (batch, time) float32 at 24 kHz -> (batch, frames, 128)."""
        if audio.shape[1] < round(self.window * self.sample_rate):
            return audio.new_zeros(len(audio), 0, self.dim)
        return self.model.encoder(audio[:, None]).transpose(1, 2)
