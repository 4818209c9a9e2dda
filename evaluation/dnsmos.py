"""DNSMOS P.835 (Reddy, Gopal and Cutler 2022): a listener's opinion of speech, 1 to 5, without a reference.

Weights: sig_bak_ovr.onnx of microsoft/DNS-Challenge (CC-BY-4.0), run by onnxruntime where that is installed. It judges
9.01 s at 16 kHz, each second anew; a shorter clip is repeated. Meaningless for what is no speech.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from audiogen.core.errors import UserError
from audiogen.signal.resample import resample
from evaluation.embedders.base import read_weights

RATE = 16000
WINDOW = 144_160  # samples, 9.01 s
FILE = "dnsmos_sig_bak_ovr.onnx"
SHA256 = "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd"
SOURCE = "github.com/microsoft/DNS-Challenge, DNSMOS/DNSMOS/sig_bak_ovr.onnx, saved as " + FILE
# The authors' second-order fits from the network's scale to listeners': a x² + b x + c.
FITS = {"dnsmos_sig": (-0.08397278, 1.22083953, 0.0052439), "dnsmos_bak": (-0.13166888, 1.60915514, -0.39604546),
        "dnsmos_ovrl": (-0.06766283, 1.11546468, 0.04602535)}


class DNSMOS:
    """clip -> {"dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl"}: speech, background, overall."""

    def __init__(self, weights: str | Path | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UserError("DNSMOS needs the package onnxruntime, which is not installed") from None
        data = read_weights(FILE, sha256=SHA256, weights=weights, source=SOURCE)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def __call__(self, clip: Tensor, sample_rate: int) -> dict[str, float]:
        """clip (time,)."""
        windows = speech_windows(resample(clip.float(), sample_rate, RATE).numpy())
        raw = self.session.run(None, {self.session.get_inputs()[0].name: windows})[0]     # (windows, 3)
        return {name: float(np.polyval(fit, raw[:, place]).mean()) for place, (name, fit) in enumerate(FITS.items())}


def speech_windows(samples: np.ndarray) -> np.ndarray:
    """(time,) at 16 kHz -> (windows, WINDOW) float32, a second apart; a short clip is doubled until it fills one."""
    if not len(samples):
        raise UserError("the clip is empty")
    while len(samples) < WINDOW:
        samples = np.concatenate([samples, samples])
    starts = range(0, len(samples) - WINDOW + 1, RATE)
    return np.stack([samples[start : start + WINDOW] for start in starts]).astype(np.float32)
