"""What the training loop needs to train a mel generator: one player, statistics of the data, demo clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiogen.core.audio import Audio
from audiogen.core.interfaces import Condition, MelGenerator, Player
from audiogen.core.rng import SampleRng


class GeneratorTask:
    """Trains one `MelGenerator`.

    `demos`: (name, condition of batch 1, frames) triples, drawn with seed 0 at every demo.
    `render`: mel (1, n_mels, frames) -> Audio, the vocoder that demos are heard through; not used where the model makes
    audio itself.
    """

    room = "generator"

    def __init__(
        self,
        model: MelGenerator,
        *,
        demos: Sequence[tuple[str, Condition, int]] = (),
        render: Callable[[Tensor], Audio] | None = None,
    ) -> None:
        self.model: Any = model
        self.mel = model.config.mel
        self.demos, self.render = demos, render

    def players(self) -> list[Player]:
        return [Player("generator", self.model, self.model.loss)]

    def demo(self, model: nn.Module, folder: Path, step: int) -> None:
        from audiogen.signal.picture import save_spectrogram

        for index, (name, condition, frames) in enumerate(self.demos):
            device = next(model.parameters()).device
            moved = Condition(*(part.to(device) if part is not None else None for part in condition))
            made = model.sample(moved, frames, rng=SampleRng(0, ids=[index], stream="demo")).cpu()
            sound, picture = None, made[0]
            if model.makes == "audio":
                sound, picture = Audio(made[0], self.mel.sample_rate), made[0, 0]
            elif self.render is not None:
                sound = self.render(made)
            save_spectrogram(picture, folder / f"{name}.png", format=self.mel, title=f"{name}, step {step}")
            if sound is not None:
                sound.save(folder / f"{name}.wav")


@torch.no_grad()
def measure_statistics(
    dataset: Any, collate: Any, front_end: nn.Module, *, samples: int = 256
) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every mel bin over the first `samples` items, padding left out; (n_mels,) each."""
    count, total, squares = 0, 0.0, 0.0
    for first in range(0, samples, 16):
        batch = collate([dataset[k] for k in range(first, min(first + 16, samples))])
        mel = (front_end(batch.audio) if batch.mel is None else batch.mel).double()  # (batch, n_mels, frames)
        mask = (torch.arange(mel.shape[-1])[None] < batch.lengths[:, None]).unsqueeze(1).double()
        count += float(mask.sum())
        total = total + (mel * mask).sum(dim=(0, 2))
        squares = squares + (mel.square() * mask).sum(dim=(0, 2))
    mean = total / max(count, 1.0)
    return mean.float(), (squares / max(count, 1.0) - mean.square()).clamp(min=1e-4).sqrt().float()
