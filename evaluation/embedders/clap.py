"""LAION-CLAP (Wu et al. 2023): 512-d embeddings of audio, and of the words that describe it.

A folder of the library transformers (laion/larger_clap_music, laion/clap-htsat-unfused). Windows are 10 s every 5 s,
whole ones; a shorter clip is one window, repeated until it fills it, as published. fadtk takes a window each second and
fills the last ones with silence, so nine of ten windows of a 10 s clip hold silence: its numbers are others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiogen.core.errors import UserError
from evaluation.embedders.base import in_blocks, windows
from evaluation.embedders.model_folder import find_folder, load_exactly, transformers

SECONDS = 10.0


class CLAP(nn.Module):
    """48 kHz audio -> 512-d unit vectors, one a 10 s window every 5 s."""

    name, version = "clap", 1
    source = "laion/larger_clap_music of the Hugging Face hub"
    sample_rate, dim = 48000, 512
    window, hop = 0.5, SECONDS / 2
    note = "LAION-CLAP; parity with the original unverified here (no weights at hand)"

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        self.folder, config, self.weights_sha256 = find_folder(self.name, source=self.source, weights=weights)
        library = transformers()
        if config.get("model_type") != "clap":
            raise UserError(f"{self.folder} holds a {config.get('model_type')!r} model, not 'clap'")
        if config.get("audio_config", {}).get("enable_fusion"):
            raise UserError(f"{self.folder}: fusion models cut long clips at random; take an unfused one")
        self.front_end = library.ClapFeatureExtractor.from_pretrained(self.folder, local_files_only=True)
        self.model = load_exactly(library.ClapModel, self.folder, unread=("text_model.embeddings.position_ids",))
        self.dim = self.model.config.projection_dim
        self.tokenizer = None

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """audio (batch, time) float32 at 48 kHz -> (batch, windows, 512)."""
        if audio.shape[1] < self.window * self.sample_rate:
            return audio.new_zeros(len(audio), 0, self.dim)
        length = min(audio.shape[1], round(SECONDS * self.sample_rate))
        parts = windows(audio[..., None], length, round(self.hop * self.sample_rate))[..., 0]
        rows = in_blocks(self._embed, parts.flatten(0, 1), 4, self.dim)
        return rows.unflatten(0, parts.shape[:2])

    def _embed(self, clips: Tensor) -> Tensor:
        inputs = self.front_end(list(clips.numpy()), sampling_rate=self.sample_rate, padding="repeatpad",
                                truncation="rand_trunc", return_tensors="pt")  # never longer, so never cut at random
        pooled = self.model.audio_model(input_features=inputs["input_features"], is_longer=inputs["is_longer"])
        return F.normalize(self.model.audio_projection(pooled.pooler_output), dim=-1)

    @torch.no_grad()
    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (texts, 512) unit vectors in the space of the audio's: their cosine is the CLAP score."""
        if self.tokenizer is None:
            self.tokenizer = transformers().AutoTokenizer.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False)
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        pooled = self.model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return F.normalize(self.model.text_projection(pooled.pooler_output), dim=-1)


class CLAPAudio(CLAP):
    """The checkpoint for sounds of all kinds."""

    name = "clap_audio"
    source = "laion/clap-htsat-unfused of the Hugging Face hub"
