"""An engine of untrained networks, for tests of what is done with one."""

from __future__ import annotations

import torch

from audiogen.conditioning.labels import StyleVocabulary
from audiogen.conditioning.text import WordVectors
from audiogen.core.checkpoint import save_checkpoint
from audiogen.core.mel_format import MelFormat
from audiogen.generators.diffusion import MelDiffusion, MelDiffusionConfig, Sampling
from audiogen.generators.networks.gated import GatedConfig
from audiogen.pipeline import DEFAULT
from vocoders.griffin_lim import GriffinLim, GriffinLimConfig

STYLES = ("grand piano", "cello", "rain")
TINY = GatedConfig(width=16, depth=2, modulation=16)
MEL = MelFormat()


def load_words() -> WordVectors:
    return WordVectors.load(DEFAULT / "words.safetensors")


def save_engine(folder, words, *, mel: MelFormat = MEL, voice: MelFormat = MEL, seed: int = 0):
    torch.manual_seed(seed)
    vocabulary = StyleVocabulary(STYLES, words)
    model = MelDiffusion(
        MelDiffusionConfig(
            mel=mel, gated=TINY, coarse=TINY, vector_dim=vocabulary.dim, sampling=Sampling(steps=2, guidance=2.0)
        )
    )
    for parameter in model.parameters():  # an untrained network answers zero, whatever it is asked
        torch.nn.init.normal_(parameter, std=0.1)
    model.set_statistics(torch.full((mel.n_mels,), -5.0), torch.ones(mel.n_mels))
    labels = {"vocabulary": vocabulary.to_dict(), "played": ["grand piano", "cello"]}
    save_checkpoint(folder / "generator", model, room="generator", labels=labels)
    save_checkpoint(folder / "vocoder", GriffinLim(GriffinLimConfig(mel=voice, iterations=2)), room="vocoder")
    (folder / "words.safetensors").write_bytes((DEFAULT / "words.safetensors").read_bytes())
    return folder
