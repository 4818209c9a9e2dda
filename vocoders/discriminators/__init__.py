"""Discriminators: what tells a vocoder's clips from real ones. Several kinds, together or alone.

Each kind is one file, as published, with the names of the published modules. All return the same: a list of
sub-discriminators, each a list of feature maps whose last one is the verdict. What is new is `width`: the published
sizes cost more than the vocoders that they judge, and a CPU can afford neither.

| kind | judges | parameters as published |
|---|---|---|
| spectrum | compressed complex spectra, small (ours) | 0.06 M |
| multi_period | every 2nd, 3rd, 5th, 7th, 11th sample (HiFi-GAN) | 41.1 M |
| multi_scale | the waveform and two averages of it (MelGAN, HiFi-GAN) | 29.6 M |
| multi_resolution | magnitude spectra (UnivNet, BigVGAN) | 0.3 M |
| multi_band | complex spectra in five bands (DAC, Vocos) | 1.4 M |
| sub_band_cqt | constant-Q transforms, octave by octave (BigVGAN v2) | 4.5 M |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError
from vocoders.discriminators.multi_band import MultiBandDiscriminator
from vocoders.discriminators.multi_period import MultiPeriodDiscriminator
from vocoders.discriminators.multi_resolution import MultiResolutionDiscriminator
from vocoders.discriminators.multi_scale import MultiScaleDiscriminator
from vocoders.discriminators.spectrum import SpectrumDiscriminators
from vocoders.discriminators.sub_band_cqt import SubBandCQTDiscriminator

Kind = Literal["spectrum", "multi_period", "multi_scale", "multi_resolution", "multi_band", "sub_band_cqt"]


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Which discriminators, and how large. Only the fields of the kinds that are chosen matter."""

    resolutions: tuple[tuple[int, int], ...] = ((1024, 256), (512, 128), (256, 64))
    """spectrum: n_fft and hop length of each."""
    channels: int = 16
    """spectrum: channels."""
    compression: float = 0.3
    """spectrum: exponent of the magnitude; 1: as it is."""
    kinds: tuple[Kind, ...] = ("spectrum",)
    """Which discriminators judge."""
    weights: tuple[float, ...] = ()
    """Weight of each kind in the losses; all 1 where none is given."""
    width: float = 1.0
    """Channels of all kinds but spectrum, as a share of the published ones."""
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """multi_period: samples between neighbours."""
    scales: int = 3
    """multi_scale: the waveform, and so many averages less one."""
    windows: tuple[tuple[int, int, int], ...] = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
    """multi_resolution: n_fft, hop length and window of each, in samples."""
    band_windows: tuple[int, ...] = (2048, 1024, 512)
    """multi_band: n_fft of each."""
    octaves: tuple[tuple[int, int, int], ...] = ((512, 9, 24), (256, 9, 36), (256, 9, 48))
    """sub_band_cqt: hop length (at twice the sample rate), octaves and bins an octave of each."""
    filters: int = 32
    """sub_band_cqt: channels; BigVGAN v2 has 128."""

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in BUILDERS:
                raise UserError(f"no discriminator is called {kind!r}{did_you_mean(kind, BUILDERS)}")
        if self.weights and len(self.weights) != len(self.kinds):
            raise UserError(f"{len(self.weights)} discriminator weights for {len(self.kinds)} kinds: give one for each")
        if not self.kinds or not self.width > 0:
            raise UserError(f"discriminator kinds={self.kinds} must name one at least, and width={self.width} be > 0")


BUILDERS: dict[str, Callable[[DiscriminatorConfig, int], nn.Module]] = {
    "spectrum": lambda c, rate: SpectrumDiscriminators(c.resolutions, c.channels, c.compression),
    "multi_period": lambda c, rate: MultiPeriodDiscriminator(c.periods, width=c.width),
    "multi_scale": lambda c, rate: MultiScaleDiscriminator(c.scales, width=c.width),
    "multi_resolution": lambda c, rate: MultiResolutionDiscriminator(c.windows, width=c.width),
    "multi_band": lambda c, rate: MultiBandDiscriminator(c.band_windows, width=c.width),
    "sub_band_cqt": lambda c, rate: SubBandCQTDiscriminator(c.octaves, c.filters, sample_rate=rate, width=c.width),
}


class Discriminators(nn.Module):
    """The kinds of a config side by side."""

    def __init__(self, config: DiscriminatorConfig | None = None, *, sample_rate: int = 22050) -> None:
        super().__init__()
        self.config = config = config or DiscriminatorConfig()
        self.parts = nn.ModuleList(BUILDERS[kind](config, sample_rate) for kind in config.kinds)
        self.weights = config.weights or (1.0,) * len(config.kinds)

    def forward(self, audio: Tensor) -> list[list[list[Tensor]]]:
        """audio (batch, 1, time) -> kinds, of sub-discriminators, of feature maps; each one's last map is the verdict:
        1 for real, 0 (hinge: -1) for made."""
        return [part(audio) for part in self.parts]

    def shortest(self) -> int:
        """Samples that a clip must have, so that it can be mirrored at its ends."""
        return max((getattr(module, "shortest", 1) for module in self.modules() if module is not self), default=1)
