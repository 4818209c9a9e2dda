"""Drawing the samples of a WaveNet one after the other, with all that it remembers carried from call to call."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng
from audiogen.nn.wavenet import WaveNetStack
from audiogen.nn.wavenet_outputs import mu_law_decode
from audiogen.ops import Upsampling
from audiogen.ops.wavenet_generate import start, wavenet_generate


class SampleLoop:
    """One or more clips being drawn side by side.

    Random numbers are read from the rng's tape at each sample's place, so the same samples come out however the calls
    are cut. An autoregressive model hears itself: what conditions a step must therefore be the same to the last bit.
    """

    def __init__(
        self, stack: WaveNetStack, *, rng: SampleRng, temperature: float = 1.0, precision: str | None = None
    ) -> None:
        """temperature: as in `wavenet_generate`; precision: of the weights, the stack's own where None."""
        if not 0 <= temperature < float("inf"):
            raise UserError(f"temperature={temperature} must be 0 or more")
        self.config, self.rng, self.temperature = stack.config, rng, temperature
        with torch.no_grad():
            self.packed = stack.pack(precision)
        self.state = start(self.packed, len(rng), previous=stack.silence)
        self.previous = torch.zeros(len(rng), dtype=torch.float64)  # the sample before, without pre-emphasis

    def draw(
        self, begin: int, end: int, condition: Tensor | None = None, *, upsampling: Upsampling | None = None
    ) -> Tensor:
        """Samples begin .. end - 1 of the clip, which must be the next ones -> audio (batch, 1, time), float32.

        condition (batch, layers, 2 * gate, frames) and its upsampling are those of these samples.
        """
        draw = self.rng.tape_randn if self.config.output == "gaussian" else self.rng.tape_rand
        random = draw(self.packed.randoms, begin, end, device=self.packed.blob.device)
        samples = wavenet_generate(
            self.packed, self.state, random, condition, upsampling=upsampling, temperature=self.temperature
        )
        if self.config.output == "softmax":
            samples = mu_law_decode(samples, self.config.classes, dtype=torch.float64)
        return (self.deemphasized(samples) / self.config.gain).clamp(-1.0, 1.0).float()[:, None]

    def deemphasized(self, samples: Tensor) -> Tensor:
        """y[t] = x[t] + preemphasis * y[t - 1], (batch, time)."""
        share = self.config.preemphasis
        if not share:
            return samples
        rows = []
        for row, before in zip(samples.double().cpu(), self.previous.tolist(), strict=True):
            rows.append(list(accumulate(row.tolist(), lambda y, x: x + share * y, initial=before))[1:])
        audio = torch.tensor(rows, dtype=torch.float64)
        self.previous = audio[:, -1].clone()
        return audio.to(samples.device)

    def save(self) -> dict[str, Tensor]:
        """All that `restore` needs to go on from here, in a loop over the same stack and rng."""
        state = {name: tensor.clone() for name, tensor in self.state._asdict().items()}
        return {"previous": self.previous.clone(), **state}

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Go on from where `save` was called."""
        if saved["rings"].shape != self.state.rings.shape:
            raise UserError(
                f"a state of {saved['rings'].shape[0]} clips and {tuple(saved['rings'].shape)} ring slots does not fit "
                f"{len(self.rng)} clips and {tuple(self.state.rings.shape)}: it is another model's"
            )
        self.previous = saved["previous"].clone()
        self.state = type(self.state)(
            *(saved[name].to(own, copy=True) for name, own in self.state._asdict().items())
        )
