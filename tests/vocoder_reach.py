"""What streaming relies on: a vocoder's `context_frames` is what a frame sees, and chunks with it are the whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def assert_a_frame_sees_just_its_context(model: nn.Module, mel: Tensor) -> None:
    """By the gradient of one frame's samples, which is zero beyond and not zero at the last frame that they see.

    mel: (1, n_mels, frames), at least 2 * context_frames + 5 of them.
    """
    reach, hop = model.context_frames, model.config.mel.hop_length
    mel = mel.double().requires_grad_()
    audio, middle = model.double()(mel), mel.shape[2] // 2
    audio[..., middle * hop : (middle + 1) * hop].square().sum().backward()
    seen = mel.grad.abs().sum((0, 1)).nonzero()[:, 0]
    assert max(middle - int(seen.min()), int(seen.max()) - middle) == reach


def assert_chunks_with_their_context_are_the_whole(model: nn.Module, mel: Tensor) -> None:
    """mel: (1, n_mels, frames), longer than context_frames."""
    reach, hop = model.context_frames, model.config.mel.hop_length
    with torch.inference_mode():
        whole = model(mel)
        for start in range(0, mel.shape[2], 7):
            stop, first = min(start + 7, mel.shape[2]), max(start - reach, 0)
            part = model(mel[..., first : stop + reach])[..., (start - first) * hop :][..., : (stop - start) * hop]
            assert (part - whole[..., start * hop : stop * hop]).abs().max() < 1e-5
