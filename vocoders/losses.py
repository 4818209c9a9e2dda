"""What a vocoder's clips cost: spectral distances to the real ones, and what the discriminators say.

All of it is computed in float32, under autocast too, and has finite values and gradients on silence, be it the real
clip or the made one that is silent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from audiogen.core.mel_format import MelFormat
from audiogen.signal.mel import MelSpectrogram

Judged = list[list[list[Tensor]]]  # kinds, of sub-discriminators, of feature maps: `Discriminators`
Reduce = Literal["mean", "sum"]

# ------------------------------------------------------------------------- adversarial losses


def verdict_loss(
    real: Judged, fake: Judged, *, weights: Sequence[float] = (), hinge: bool = False, reduce: Reduce = "mean"
) -> Tensor:
    """The discriminator's loss. Least squares (Mao et al. 2017): real -> 1, fake -> 0; hinge (Lim and Ye 2017): over 1,
    under -1. `reduce`: how the sub-discriminators of a kind count together; `weights`: of the kinds."""

    def of_one(r: list[Tensor], f: list[Tensor]) -> Tensor:
        r_verdict, f_verdict = r[-1].float(), f[-1].float()
        if hinge:
            return (1 - r_verdict).clamp(min=0).mean() + (1 + f_verdict).clamp(min=0).mean()
        return (r_verdict - 1).square().mean() + f_verdict.square().mean()

    return _over_kinds([[of_one(r, f) for r, f in zip(*pair, strict=True)] for pair in zip(real, fake, strict=True)],
                       weights, reduce)


def adversarial_loss(
    fake: Judged, *, weights: Sequence[float] = (), hinge: bool = False, reduce: Reduce = "mean"
) -> Tensor:
    """The generator's loss: the verdicts on its clips shall be 1 (hinge, as in Vocos: at least 1)."""

    def of_one(f: list[Tensor]) -> Tensor:
        missing = 1 - f[-1].float()
        return (missing.clamp(min=0) if hinge else missing.square()).mean()

    return _over_kinds([[of_one(f) for f in kind] for kind in fake], weights, reduce)


def feature_loss(
    real: Judged, fake: Judged, *, weights: Sequence[float] = (), relative: bool = True, reduce: Reduce = "mean"
) -> Tensor:
    """Mean distance of the feature maps (Larsen et al. 2016); no gradient goes to the real ones.

    relative: each map's distance as a share of the real map's size, since the scale of a layer is arbitrary; their
        mean, without the verdict. Otherwise as published (MelGAN, HiFi-GAN): plain distances, summed over the maps of a
        sub-discriminator, its verdict among them.
    """

    def of_one(r: list[Tensor], f: list[Tensor]) -> Tensor:
        distances = []
        for a, b in zip(r[: -1 if relative else None], f[: -1 if relative else None], strict=True):
            a = a.detach().float()
            distance = (a - b.float()).abs().flatten(1).mean(1)  # of each clip: how batches are cut must not matter
            distances.append((distance / (a.abs().flatten(1).mean(1) + 1e-3) if relative else distance).mean())
        return torch.stack(distances).mean() if relative else torch.stack(distances).sum()

    return _over_kinds([[of_one(r, f) for r, f in zip(*pair, strict=True)] for pair in zip(real, fake, strict=True)],
                       weights, reduce)


def _over_kinds(losses: list[list[Tensor]], weights: Sequence[float], reduce: Reduce) -> Tensor:
    kinds = [torch.stack(parts) for parts in losses]
    kinds = [parts.mean() if reduce == "mean" else parts.sum() for parts in kinds]
    return sum(weight * loss for weight, loss in zip(weights or [1.0] * len(kinds), kinds, strict=True))


# ------------------------------------------------------------------------- spectral losses


class SpectralLoss(nn.Module):
    """auraloss's multi-resolution STFT loss and the distance of the log-mel spectra, in natural logarithms; the mean of
    those of the clips, so that a batch teaches the same in one piece, in micro-batches and over processes.

    The mel is the model's own in its sizes only: it reaches up to half the sample rate, so that a vocoder whose input
    ends at 8 kHz still learns what is above (HiFi-GAN), and no published scaling of the logarithm changes its weight.
    """

    def __init__(self, format: MelFormat) -> None:
        super().__init__()
        from auraloss.freq import MultiResolutionSTFTLoss

        self.stft = MultiResolutionSTFTLoss()  # 1024/120/600, 2048/240/1200, 512/50/240
        for part in self.stft.stft_losses:
            part.stft, part.spectralconv = _Magnitude(part), _Convergence()
        self.front_end = MelSpectrogram(MelFormat(
            sample_rate=format.sample_rate, n_fft=format.n_fft, win_length=format.win_length,
            hop_length=format.hop_length, n_mels=format.n_mels, f_max=format.sample_rate / 2,
        ))

    def forward(self, audio: Tensor, target: Tensor) -> dict[str, Tensor]:
        """audio, target (batch, 1, time), time > 1024 -> "stft" and "mel"."""
        with torch.autocast(audio.device.type, enabled=False):
            audio, target = audio.float(), target.float()
            # Spectral convergence is a distance as a share of the target's size: against silence it has no meaning and
            # no bound. There the sound that should not be is counted instead.
            loud = target.abs().amax((1, 2)) > 1e-3
            stft = (audio * ~loud[:, None, None]).abs().mean()
            if loud.any():
                stft = stft + self.stft(audio[loud], target[loud]) * loud.float().mean()
            return {"stft": stft, "mel": (self.front_end(audio) - self.front_end(target)).abs().mean()}


class _Magnitude:
    """`STFTLoss.stft` without the phase that the default loss computes and throws away: a third of its time."""

    def __init__(self, part: nn.Module) -> None:
        self.size, self.eps = (part.fft_size, part.hop_size, part.win_length), part.eps
        self.window = part.window

    def __call__(self, x: Tensor) -> tuple[Tensor, None]:
        self.window = self.window.to(x.device)
        spectrum = torch.stft(x, *self.size, self.window, return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square()).clamp(min=self.eps).sqrt(), None


class _Convergence(nn.Module):
    """`STFTLoss.spectralconv` (Arik et al. 2018) of each clip; auraloss divides the norms of whole batches."""

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """Magnitudes (batch, bins, frames) -> scalar."""
        return (torch.linalg.vector_norm(real - made, dim=(1, 2)) / torch.linalg.vector_norm(real, dim=(1, 2))).mean()


class MultiScaleMelLoss(nn.Module):
    """Sum of log10-mel distances over seven resolutions, of the Descript codec (Kumar et al. 2023) and BigVGAN v2."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.front_ends = nn.ModuleList(
            MelSpectrogram(MelFormat(
                sample_rate=sample_rate, n_fft=window, win_length=window, hop_length=window // 4, n_mels=n_mels,
                f_max=sample_rate / 2, log="log10", padding="center",
            ))
            for window, n_mels in zip((32, 64, 128, 256, 512, 1024, 2048), (5, 10, 20, 40, 80, 160, 320), strict=True)
        )

    def forward(self, audio: Tensor, target: Tensor) -> Tensor:
        """audio, target (batch, 1, time) -> scalar."""
        distances = [(mel(audio) - mel(target)).abs().mean() for mel in self.front_ends]
        return torch.stack(distances).sum()


def magnitude_loss(log_magnitude: Tensor, short_time: nn.Module, audio: Tensor) -> Tensor:
    """The two terms of the STFT loss for a spectrum that is predicted frame by frame: log_magnitude (batch, frames,
    bins) against that of `audio` (batch, 1, time)."""
    with torch.autocast(audio.device.type, enabled=False):
        log_magnitude = log_magnitude.float()
        real = short_time.transform(short_time.extend(audio[:, 0].float()))[:, : log_magnitude.shape[1]].abs()
        log_distance = (real.clamp(min=1e-4).log() - log_magnitude.clamp(min=math.log(1e-4))).abs().mean()
        distance = (real - log_magnitude.exp()).square().sum((1, 2)).add(1e-12).sqrt()
        return log_distance + (distance / (real.square().sum((1, 2)).sqrt() + 1e-2)).mean()
