"""Networks that a diffusion generator can use; all are built and called alike, so each goes with every objective.

    network = network_class("dit")(config, channels_in=80, channels_out=80, vector_dim=64, aligned_dim=265)
    network(x, noise_level, vector, aligned) -> (batch, channels_out, frames), 0 at the start of training

    x            (batch, channels_in, frames)           any number of frames >= 1
    noise_level  (batch,) or None                       c_noise of the objective: in [-1, 1] or ln(sigma) / 4
    vector       (batch, vector_dim) or None            the style
    aligned      (batch, aligned_dim, frames) or None   the piano roll
"""

from __future__ import annotations

import importlib

from torch import nn

from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError

NETWORKS: dict[str, str] = {
    "unet": "audiogen.generators.networks.unet:UNet",
    "dit": "audiogen.generators.networks.dit:DiT",
    "gated": "audiogen.generators.networks.gated:GatedNetwork",
}


def network_class(name: str) -> type[nn.Module]:
    """The class that `name` stands for."""
    if name not in NETWORKS:
        raise UserError(f"no network is called {name!r}{did_you_mean(name, NETWORKS)}")
    module, _, attribute = NETWORKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
