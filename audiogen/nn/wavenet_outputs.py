"""What a WaveNet says about its next sample: a distribution, as parameters (batch, parameters, time).

    softmax    over the codes of a mu-law quantiser (van den Oord et al. 2016)
    logistics  a mixture of logistics, discretised to 2^16 levels (PixelCNN++: Salimans et al. 2017; van den Oord et al.
               2018)
    gaussian   one Gaussian (ClariNet: Ping, Peng and Chen 2019)

Here are the logarithms of their probabilities; the samplers are those of `audiogen.ops.wavenet_generate`, which draws
inside its loop. Audio is in [-1, 1] everywhere; only the network's input sees codes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 65536  # of 16-bit audio; level k lies at -1 + 2 k / (LEVELS - 1)


class Output(ABC):
    """One kind of distribution. `parameters`: the network's output channels; `inputs`: its input channels."""

    parameters: int
    inputs: int

    @abstractmethod
    def log_prob(self, parameters: Tensor, audio: Tensor) -> Tensor:
        """parameters (batch, parameters, time), audio (batch, time) -> natural logarithms (batch, time)."""

    @abstractmethod
    def mode(self, parameters: Tensor) -> Tensor:
        """parameters (batch, parameters, time) -> what temperature 0 plays, (batch, time)."""

    def network_input(self, fed: Tensor) -> Tensor:
        """What is fed back (batch, time) -> what the first convolution reads (batch, inputs, time)."""
        return fed[:, None]

    def fed_back(self, audio: Tensor) -> Tensor:
        """audio (batch, time) -> what the network is fed: the audio itself, or its codes."""
        return audio


class MuLaw(Output):
    """A softmax over mu-law codes; what goes in is the code of the sample before, one-hot."""

    def __init__(self, classes: int) -> None:
        self.classes = self.parameters = self.inputs = classes

    def log_prob(self, parameters: Tensor, audio: Tensor) -> Tensor:
        """The probability of the audio's code (not a density)."""
        return -F.cross_entropy(parameters, mu_law_encode(audio, self.classes), reduction="none")

    def mode(self, parameters: Tensor) -> Tensor:
        return mu_law_decode(parameters.argmax(1), self.classes, dtype=parameters.dtype)

    def fed_back(self, audio: Tensor) -> Tensor:
        return mu_law_encode(audio, self.classes)

    def network_input(self, fed: Tensor) -> Tensor:
        return F.one_hot(fed.long(), self.classes).transpose(1, 2)


class Logistics(Output):
    """A mixture of logistics; channels: logits of the components, then means, then logarithms of scales."""

    inputs = 1

    def __init__(self, components: int, log_scale_min: float) -> None:
        self.components, self.log_scale_min = components, log_scale_min
        self.parameters = 3 * components

    def log_prob(self, parameters: Tensor, audio: Tensor) -> Tensor:
        """The probability of the audio's 16-bit level: the lowest and highest level hold the tails, so all sum to 1."""
        logits, means, log_scales = parameters.unflatten(1, (3, self.components)).unbind(1)
        within = log_logistic_bin(audio[:, None], means, log_scales.clamp(min=self.log_scale_min))
        return torch.logsumexp(within + F.log_softmax(logits, 1), 1)

    def mode(self, parameters: Tensor) -> Tensor:
        """The mean of the likeliest component."""
        logits, means, _ = parameters.unflatten(1, (3, self.components)).unbind(1)
        return means.gather(1, logits.argmax(1, keepdim=True))[:, 0].clamp(-1.0, 1.0)


class Gaussian(Output):
    """One Gaussian; channels: mean, logarithm of the standard deviation."""

    inputs, parameters = 1, 2

    def __init__(self, log_scale_min: float) -> None:
        self.log_scale_min = log_scale_min

    def log_prob(self, parameters: Tensor, audio: Tensor) -> Tensor:
        """A density: nats for samples in [-1, 1]. In bits for each 16-bit level: minus log2(2 / 65535)."""
        mean, log_scale = parameters[:, 0], parameters[:, 1].clamp(min=self.log_scale_min)
        return -0.5 * ((audio - mean) * torch.exp(-log_scale)).square() - log_scale - 0.5 * math.log(2 * math.pi)

    def mode(self, parameters: Tensor) -> Tensor:
        return parameters[:, 0].clamp(-1.0, 1.0)


def log_logistic_bin(audio: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log P(level of audio) under a discretised logistic, without a difference of nearly equal numbers.

    With u, l the upper and lower edge of the level in units of the scale,
        sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)),
    and each factor has an exact logarithm. The usual form, log(max(sigmoid(u) - sigmoid(l), 1e-12)), has no gradient
    where it matters: a 16-bit level is so narrow that most differences vanish in float32.
    """
    half = 1.0 / (LEVELS - 1)
    inverse = torch.exp(-log_scale)
    upper, lower = (audio - mean + half) * inverse, (audio - mean - half) * inverse
    log_upper, log_above = F.logsigmoid(upper), F.logsigmoid(-lower)
    inside = log_upper + log_above + torch.log(-torch.expm1(-2 * half * inverse))
    return torch.where(audio < -1 + half, log_upper, torch.where(audio > 1 - half, log_above, inside))


def mu_law_encode(audio: Tensor, classes: int) -> Tensor:
    """audio in [-1, 1] (beyond: clipped) -> codes 0 .. classes - 1, int64 (ITU-T G.711's curve, mu = classes - 1)."""
    mu = classes - 1
    squeezed = audio.sign() * torch.log1p(mu * audio.abs().clamp(max=1.0)) / math.log1p(mu)
    return ((squeezed + 1) / 2 * mu + 0.5).long()


def mu_law_decode(codes: Tensor, classes: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """codes -> audio in [-1, 1]: the values that `mu_law_encode` gives back the codes of."""
    mu = classes - 1
    squeezed = 2 * codes.to(dtype) / mu - 1
    return squeezed.sign() * torch.expm1(squeezed.abs() * math.log1p(mu)) / mu
