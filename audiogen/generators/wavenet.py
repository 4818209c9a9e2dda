"""WaveNet (van den Oord et al. 2016) as a generator: style and notes -> audio, sample by sample, without a mel.

    piano roll, style ─ gated convolutions over frames ─ 1x1 of every layer, held for hop_length samples ─┐
    style ──────────────────────────────────────────── 1x1 of every layer, held for the whole clip ───────┤
    the samples before t ─ WaveNetStack (audiogen/nn/wavenet.py) ─────────────────────────────────────────┴─ sample t

The likelihood of every sample given those before it is all that is trained: no mel, no discriminator, no vocoder. Sound
is made at the rate of `mel`, whose frames are the roll's; its bands are what demos are drawn in. Dropped routes (style,
roll) make it a model of all music as well: without a condition it plays what it likes.

There is no classifier-free guidance: it would be a second pass of the network for every sample, and the native kernel
draws within its loop. `negative` is ignored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from audiogen.conditioning.guidance import drop
from audiogen.conditioning.piano_roll import ROLL_DIM
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.generators.mel_model import MelModel
from audiogen.generators.networks.gated import GatedConfig, GatedNetwork
from audiogen.nn.wavenet import WaveNetStack, WaveNetStackConfig
from audiogen.nn.wavenet_loop import SampleLoop
from audiogen.nn.wavenet_outputs import mu_law_decode

PRECISIONS = ("float32", "bfloat16", "int8")
BLOCK = 32  # frames whose conditions are computed together


@dataclass(frozen=True)
class WaveNetSampling:
    temperature: float = 0.8
    """1: drawn as the network says; below: nearer to its best guess; 0: the best guess itself, mostly a hum. A network
    of few steps is unsure of everything, which sounds as hiss."""
    precision: str = "float32"
    """Of the weights: "float32", "bfloat16" or "int8" (each smaller, faster and rougher than the one before)."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature={self.temperature} must be 0 or more; 1 draws as the network says")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision={self.precision!r} must be one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class WaveNetGeneratorConfig:
    """The default learns in minutes on a CPU core, which draws it faster than real time; 8 kHz leave it most to say."""

    mel: MelFormat = MelFormat(sample_rate=8000, n_fft=512, win_length=512, hop_length=128, n_mels=64, f_max=4000.0)
    network: WaveNetStackConfig = WaveNetStackConfig(
        output="softmax", layers=10, kernel_size=3, channels=32, gate_channels=32, skip_channels=64, skip_scale="none",
        gain=0.6, preemphasis=0.85,
    )
    """A sample hears the 2047 before it, 256 ms. Ten layers of three taps learn as much a step as twenty of two, for
    two thirds of the work. What is drawn wrongly, and the noise of the codes, is white; without the pre-emphasis it
    falls like the spectrum of music (LPCNet: Valin & Skoglund 2019)."""
    context: GatedConfig = GatedConfig(width=128, depth=6, means=(), bands=1)
    """Over the frames of the roll, ahead and back: what the sound of a note depends on beyond the last 256 ms."""
    local_dim: int = 64
    """Numbers a frame that the context gives every layer; 0: no context, the score is not heard."""
    vector_dim: int = 64
    aligned_dim: int = ROLL_DIM
    drop_vector: float = 0.1
    drop_aligned: float = 0.1
    sampling: WaveNetSampling = field(default_factory=WaveNetSampling)

    def __post_init__(self) -> None:
        if self.local_dim < 0:
            raise UserError(f"wavenet: local_dim={self.local_dim} must be 0 (the score is not heard) or more")


class WaveNetGenerator(MelModel):
    """condition -> audio."""

    config_type = WaveNetGeneratorConfig
    presets = {  # four times the work a sample; about as much as one core draws in real time
        "wavenet_64": WaveNetGeneratorConfig(
            network=WaveNetStackConfig(
                output="softmax", layers=10, kernel_size=3, channels=64, gate_channels=64, skip_channels=128,
                skip_scale="none", gain=0.6, preemphasis=0.85,
            )
        ),
    }
    overfit_below = ("bits", 3.0)  # bits a sample, of mu-law codes that have 8
    makes = "audio"

    def __init__(self, config: WaveNetGeneratorConfig) -> None:
        super().__init__(config)
        self.context = None
        if config.local_dim:
            self.context = GatedNetwork(
                config.context, channels_in=config.aligned_dim, channels_out=config.local_dim,
                vector_dim=config.vector_dim,
            )
        self.stack = WaveNetStack(config.network, local_dim=config.local_dim, style_dim=config.vector_dim)
        if config.network.output == "softmax":
            order_codes(self.stack)

    def loss(self, batch: Batch, rng: SampleRng) -> dict[str, Tensor]:
        """"loss": negative log-likelihood in nats a sample of what is sound; "bits": the same in bits."""
        hop = self.config.mel.hop_length
        frames = batch.audio.shape[2] // hop
        dropped = drop(batch.condition, {"vector": self.config.drop_vector, "aligned": self.config.drop_aligned}, rng)
        condition = self.complete(dropped, batch.audio.shape[0], frames)
        heard = self.stack.heard(batch.audio[:, :, : frames * hop])
        parameters = self.stack.teacher_forced(heard, self.local(condition), self.style(condition))
        return self.stack.losses(self.stack.likelihood(parameters, heard), batch.lengths * hop)

    @torch.no_grad()
    def sample(
        self, condition: Condition, frames: int, *, rng: SampleRng, sampling: WaveNetSampling | None = None,
        negative: Tensor | None = None,
    ) -> Tensor:
        """-> audio (batch, 1, frames * hop_length); the batch is the rng's."""
        return self.stream(condition, frames, rng=rng, sampling=sampling).read(frames)

    def stream(
        self, condition: Condition, frames: int, *, rng: SampleRng, sampling: WaveNetSampling | None = None
    ) -> ClipStream:
        """The clip that `sample` makes, piece by piece."""
        return ClipStream(self, condition, frames, rng=rng, sampling=sampling or self.config.sampling)

    def local(self, condition: Condition) -> Tensor | None:
        """A whole condition -> what conditions each frame (batch, local_dim, frames)."""
        return None if self.context is None else self.context(condition.aligned, None, condition.vector)

    def style(self, condition: Condition) -> Tensor:
        """A whole condition -> (batch, vector_dim): vectors of length 1, brought to deviations of about 1."""
        return condition.vector * math.sqrt(self.config.vector_dim)


@torch.no_grad()
def order_codes(stack: WaveNetStack) -> None:
    """Begin with neighbouring codes alike, read and drawn: what goes in follows the code and its amplitude, and the
    logits are sums of slow cosines over the codes. A fresh one-hot network must learn from each code by itself that
    they lie on a line, and spends its first thousands of steps on that."""
    classes, last = stack.config.classes, stack.last_conv_layers[3].weight                    # (classes, hidden, 1)
    line, amplitude = torch.linspace(-1, 1, classes), mu_law_decode(torch.arange(classes), classes)
    for tap in stack.first_conv.weight.unbind(2):                                             # (channels, classes)
        tap.copy_(torch.randn(len(tap), 1) * line + torch.randn(len(tap), 1) * amplitude)
    turns = (torch.arange(last.shape[1]) % 16) / 2 * (line[:, None] + 1) / 2                  # (classes, hidden)
    waves = torch.cos(2 * math.pi * (turns + torch.rand(last.shape[1])))
    last.copy_(waves[:, :, None] * last.std())


class ClipStream:
    """Clips of a known length being drawn side by side.

    >>> stream = model.stream(condition, 100, rng=SampleRng(0))
    >>> pieces = [stream.read(40), stream.read(40), stream.read(20)]    # together: model.sample(condition, 100, ...)
    """

    @torch.no_grad()
    def __init__(
        self, model: WaveNetGenerator, condition: Condition, frames: int, *, rng: SampleRng, sampling: WaveNetSampling
    ) -> None:
        whole = model.complete(condition, len(rng), frames)
        self.stack, self.hop, self.frames = model.stack, model.config.mel.hop_length, frames
        # Each clip by itself, so that it is the same in every batch.
        clips = [Condition(vector=v[None], aligned=a[None]) for v, a in zip(whole.vector, whole.aligned, strict=True)]
        self.styles = torch.cat([self.stack.global_conditions(model.style(clip)) for clip in clips])
        self.local = None if model.context is None else [model.local(clip) for clip in clips]
        self.loop = SampleLoop(
            self.stack, rng=rng.fork("samples"), temperature=sampling.temperature, precision=sampling.precision
        )
        self.made = 0  # frames
        self._block: tuple[int, Tensor] | None = None

    @torch.no_grad()
    def read(self, frames: int) -> Tensor:
        """The next `frames` frames, or what is left of them -> audio (batch, 1, time)."""
        if frames < 0:
            raise ValueError(f"frames={frames} must not be negative")
        end, pieces = min(self.made + frames, self.frames), [self.styles.new_zeros(len(self.styles), 1, 0)]
        while self.made < end:
            cut = min(end, (self.made // BLOCK + 1) * BLOCK)
            first, last = self.made % BLOCK, (cut - 1) % BLOCK + 1
            condition = self._conditions(self.made // BLOCK)[..., first:last]
            pieces.append(self.loop.draw(self.made * self.hop, cut * self.hop, condition))
            self.made = cut
        return torch.cat(pieces, 2)

    def save(self) -> dict[str, Tensor]:
        """All that `restore` needs to go on from here, in a stream of the same model, condition, rng and sampling."""
        return {"made": torch.tensor(self.made), **self.loop.save()}

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Go on from where `save` was called."""
        self.loop.restore(saved)
        self.made = int(saved["made"])

    def _conditions(self, block: int) -> Tensor:
        """(batch, layers, 2 * gate, BLOCK) of one block of frames, which stay until the next one is asked for.

        Always of the same frames and of the same shape: then the sums are always made in the same order, and a clip
        does not depend on how it is read. Frames after the last are zeros, and are not used.
        """
        if self.local is None:
            return self.styles.expand(-1, -1, -1, BLOCK)
        if self._block is None or self._block[0] != block:
            made = []
            for clip in self.local:
                frames = clip[:, :, block * BLOCK : (block + 1) * BLOCK]
                made.append(self.stack.conditions(torch.nn.functional.pad(frames, (0, BLOCK - frames.shape[2]))))
            self._block = block, torch.cat(made) + self.styles
        return self._block[1]
