"""Rendering a WaveNet chunk by chunk, with everything that it remembers carried on.

An autoregressive model hears its own samples, so the smallest difference grows until another sample is drawn: a clip
that is rendered in chunks must see the same numbers to the last bit. Therefore `WaveNet.forward` itself is a stream,
and what conditions a frame is computed in blocks that begin at fixed frames and have a fixed size, whatever was pushed
when.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng
from audiogen.nn.wavenet_loop import SampleLoop
from audiogen.ops import Upsampling
from audiogen.ops.upsampling import upsample

if TYPE_CHECKING:
    from vocoders.wavenet import WaveNet

BLOCK = 8  # frames whose conditions are computed together


class WaveNetStream:
    """One or more clips being rendered side by side.

    >>> stream = model.stream(rng=SampleRng(0))
    >>> audio = [stream.push(mel) for mel in mels] + [stream.finish()]

    The mels together are the clip. A frame is rendered as soon as the frames that its conditioning looks ahead for
    (`WaveNet.lookahead_frames`) are there. `save` and `restore` put a stream aside.
    """

    def __init__(
        self, model: WaveNet, *, batch: int, rng: SampleRng | None, offset: int, style: Tensor | None,
        temperature: float,
    ) -> None:
        config, weight = model.config, model.first_conv.weight
        rng = rng or SampleRng(0, ids=[0] * batch)
        if len(rng) != batch:
            raise UserError(f"an rng for {len(rng)} clips does not fit a batch of {batch}")
        self.model, self.batch, self.offset = model, batch, offset
        self.loop = SampleLoop(model, rng=rng, temperature=temperature)
        with torch.no_grad():
            vector = model.style_vector(None if style is None else style.to(weight.device), batch)
            # Each clip by itself, so that it is the same in every batch.
            self.styles = None if vector is None else torch.cat([model.global_conditions(v[None]) for v in vector])
        self.mel = weight.new_zeros(batch, config.mel.n_mels, 0)  # the frames that are still needed, ...
        self.origin = 0  # ... the first of which is this frame of the clip
        self.made = 0  # frames
        self.finished = False

    @property
    def known(self) -> int:
        """Frames that were pushed."""
        return self.origin + self.mel.shape[2]

    def push(self, mel: Tensor) -> Tensor:
        """mel (batch, n_mels, frames) -> the audio (batch, 1, time) that can now be rendered, time >= 0."""
        config = self.model.config
        config.mel.check(mel, model="WaveNet")
        if self.finished:
            raise ValueError("the clip is finished: start another stream")
        if mel.shape[0] != self.batch:
            raise UserError(f"a mel of {mel.shape[0]} clips was pushed into a stream of {self.batch}")
        self.mel = torch.cat([self.mel, mel.to(self.mel)], 2)
        ready = self.known - self.model.lookahead_frames
        if config.upsampling == "smooth" and self.known <= 2 * self.model.upsample_net.upsample.reach:
            ready = 0  # so short a clip feels both its ends at once
        return self._render(ready)

    def finish(self) -> Tensor:
        """No frame follows -> the rest of the audio (batch, 1, time)."""
        self.finished = True
        return self._render(self.known)

    def save(self) -> dict[str, Tensor]:
        """All that `restore` needs to go on from here, in a stream of the same model, rng, offset and style."""
        counts = torch.tensor([self.origin, self.made, int(self.finished)])
        return {"mel": self.mel.clone(), "counts": counts, **self.loop.save()}

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Go on from where `save` was called."""
        if saved["mel"].shape[:2] != self.mel.shape[:2]:
            raise UserError(
                f"a state of {saved['mel'].shape[0]} clips of {saved['mel'].shape[1]} mel bands does not fit a stream "
                f"of {self.batch} clips of {self.mel.shape[1]}: it is another model's"
            )
        self.loop.restore(saved)
        self.origin, self.made, finished = (int(count) for count in saved["counts"])
        self.finished = bool(finished)
        self.mel = saved["mel"].to(self.mel)

    @torch.no_grad()
    def _render(self, ready: int) -> Tensor:
        """The frames from `made` up to `ready`."""
        pieces = [self._piece(begin, end) for begin, end in _pieces(self.made, ready)]
        self.made = max(self.made, ready)
        needed = max(0, self.made - self._before)
        self.mel, self.origin = self.mel[:, :, max(0, needed - self.origin) :], max(self.origin, needed)
        return torch.cat([self.mel.new_zeros(self.batch, 1, 0, dtype=torch.float32), *pieces], 2)

    @property
    def _before(self) -> int:
        """Frames before the next one that its conditions are computed from: those of its block, and what they see."""
        model = self.model
        reach = getattr(getattr(model, "upsample_net", None), "reach", 0)
        if model.config.upsampling == "smooth":
            reach = model.upsample_net.upsample.reach + model.config.context
        return BLOCK + reach

    def _piece(self, begin: int, end: int) -> Tensor:
        """Audio (batch, 1, time) of frames begin .. end - 1, which the state moves on by."""
        hop = self.model.config.mel.hop_length
        condition, band = self._conditions(begin, end)
        first, last = ((self.offset + frame) * hop for frame in (begin, end))
        return self.loop.draw(first, last, condition, upsampling=band)

    def _conditions(self, begin: int, end: int) -> tuple[Tensor | None, Upsampling | None]:
        """What conditions frames begin .. end - 1: (batch, layers, 2 * gate, frames or steps), the band to steps."""
        model = self.model
        if model.config.upsampling == "none":
            return self.styles, None
        band, low, high = None, begin, end
        if model.config.upsampling == "smooth":
            rows = model.upsample_net.upsample.rows(begin, end, frames=self.known if self.finished else None)
            low, high = int(rows.first.min()), int(rows.first.max()) + rows.weights.shape[1]
            band = Upsampling(rows.first - low, rows.weights)
        blocks = [self._block(first) for first in range(low // BLOCK * BLOCK, high, BLOCK)]
        per_frame = blocks[0].shape[3] // BLOCK
        skipped = low % BLOCK * per_frame
        condition = torch.cat(blocks, 3)[..., skipped : skipped + (high - low) * per_frame]
        if self.styles is None:
            return condition, band
        if band is not None:  # it need not sum to 1: what is constant is added after it
            time = band.first.shape[0]
            condition, band = upsample(condition.flatten(1, 2), *band, time).unflatten(1, condition.shape[1:3]), None
        return condition + self.styles, band

    def _block(self, first: int) -> Tensor:
        """Conditions (batch, layers, 2 * gate, BLOCK frames, or their steps) of the frames from `first` on.

        The shapes are always the same, so the sums are always made in the same order; frames that are not known yet
        are stood in for by the last one, and their columns are not used.
        """
        model, kind = self.model, self.model.config.upsampling
        before = model.config.context if kind == "smooth" else getattr(getattr(model, "upsample_net", None), "reach", 0)
        after = before if kind == "smooth" else 0
        frames = torch.arange(first - before, first + BLOCK + after, device=self.mel.device)
        window = model.standardized(self.mel[:, :, frames.clamp(0, self.known - 1) - self.origin])
        made = []
        for clip in window.split(1):  # one by one: a clip is then the same in every batch
            if kind == "smooth":
                clip = model.upsample_net.conv_in(clip)
            elif kind != "hold":
                silent = clip * (frames >= 0)  # before its first frame a transposed convolution sees zeros
                clip = model.upsample_net(silent)[:, :, before * model.config.mel.hop_length :]
            made.append(model.conditions(clip))
        return torch.cat(made)


def _pieces(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """begin .. end cut where blocks begin."""
    while begin < end:
        cut = min(end, (begin // BLOCK + 1) * BLOCK)
        yield begin, cut
        begin = cut
