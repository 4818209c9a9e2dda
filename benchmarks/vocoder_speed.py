"""How fast are our vocoders beside the first authors' code, with the same weights, in one run?

    python benchmarks/vocoder_speed.py --peers checkouts/ --json benchmarks/results/vocoder_speed.json
    python benchmarks/vocoder_speed.py                                      (ours alone)

--peers holds clones named hifi-gan, BigVGAN, vocos, ParallelWaveGAN and diffwave. Their models are imported from there
(stand-ins take the place of what does not import on today's packages and has no part in the model), filled with random
weights, and loaded into ours through `from_published`; both render the same mel in turns on one thread, and the least
CPU time of each counts. Weight norms are removed from theirs first, as their own inference scripts do.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from audiogen.core.registry import resolve  # noqa: E402  (runs outside an installed audiogen)
from audiogen.core.rng import SampleRng  # noqa: E402
from audiogen.ops import library  # noqa: E402
from benchmarks.clip import machine  # noqa: E402

# name -> (family, preset, seconds of audio, goal in times real time for one AVX-512 core, published checkout)
CASES = {
    "HiFi-GAN V1": ("hifigan", "hifigan_v1", 4.0, 1.3, "hifi-gan"),
    "HiFi-GAN V2": ("hifigan", "hifigan_v2", 4.0, None, "hifi-gan"),
    "HiFi-GAN V3": ("hifigan", "hifigan_v3", 4.0, None, "hifi-gan"),
    "BigVGAN base": ("hifigan", "bigvgan_base_24k_100band", 2.0, 0.9, "BigVGAN"),
    "Vocos": ("vocos", "vocos_24k", 4.0, 46.0, "vocos"),
    "Parallel WaveGAN v1": ("parallel_wavegan", "parallel_wavegan_22k", 2.0, 2.8, "ParallelWaveGAN"),
    "DiffWave, 6 steps": ("diffwave", "diffwave_22k", 1.0, 0.45, "diffwave"),
    "default multi-band": ("parallel_wavegan", "multiband_22k", 4.0, None, None),
}


@dataclass(frozen=True)
class Benchmark:
    """Race our vocoders against the originals."""

    peers: Path | None = None
    only: tuple[str, ...] = ()
    """Names that contain one of these words."""
    rounds: int = 4
    json: Path | None = None

    def run(self) -> int:
        torch.set_num_threads(1)
        rows = []
        print("| vocoder | original, × real time | ours | ratio | goal | largest difference |")
        print("|---|---|---|---|---|---|")
        for name, (family, preset, seconds, goal, checkout) in CASES.items():
            if self.only and not any(word in name for word in self.only):
                continue
            cls = resolve("vocoder", family)
            torch.manual_seed(0)
            theirs = None
            if self.peers is not None and checkout is not None:
                theirs, ours = ORIGINALS[checkout](self.peers / checkout, cls, preset)
            else:
                ours = cls(cls.presets[preset])
            rows.append(self._race(name, ours.eval(), theirs, seconds, goal))
            print(_line(rows[-1]), flush=True)
        if self.only == ():
            rows.append(self._two_threads())
            print(_line(rows[-1]))
        if self.json is not None:
            self.json.parent.mkdir(parents=True, exist_ok=True)
            result = {"rows": rows, "kernels": library.state(), "rounds": self.rounds} | machine()
            self.json.write_text(json.dumps(result, indent=1) + "\n")
        return 0

    @torch.inference_mode()
    def _race(self, name: str, ours: nn.Module, theirs: Any, seconds: float, goal: float | None) -> dict[str, Any]:
        format = ours.config.mel
        frames = round(seconds * format.frame_rate)
        mel = torch.randn(1, format.n_mels, frames, generator=torch.Generator().manual_seed(1)) - 4
        runs: dict[str, Callable[[], Tensor]] = {"ours": lambda: ours(mel, rng=SampleRng(0))}
        difference = None
        if theirs is not None:
            play, compare = theirs(mel)
            runs["original"], difference = play, compare(ours)
        best = dict.fromkeys(runs, float("inf"))
        for _ in range(self.rounds):
            for label, run in runs.items():
                began = time.process_time()
                run()
                best[label] = min(best[label], time.process_time() - began)
        length = frames * format.hop_length / format.sample_rate
        return {"name": name, "goal": goal, "difference": difference, "threads": 1,
                **{label: length / value for label, value in best.items()}}

    @torch.inference_mode()
    def _two_threads(self) -> dict[str, Any]:
        """The default vocoder as people run it."""
        cls = resolve("vocoder", "parallel_wavegan")
        torch.set_num_threads(2)
        model = cls().eval()
        mel, times = torch.randn(1, 80, 689) - 4, []
        for _ in range(self.rounds + 1):
            began = time.perf_counter()
            model(mel, rng=SampleRng(0))
            times.append(time.perf_counter() - began)
        torch.set_num_threads(1)
        return {"name": "default multi-band, 2 threads (wall)", "ours": 689 * 256 / 22050 / min(times), "goal": 10.0,
                "difference": None, "threads": 2}


def _line(row: dict[str, Any]) -> str:
    original = row.get("original")
    cells = [row["name"], f"{original:.3g}" if original else "-", f"{row['ours']:.3g}",
             f"{row['ours'] / original:.2f}" if original else "-", f"{row['goal']:g}" if row["goal"] else "-",
             f"{row['difference']:.0e}" if row["difference"] is not None else "-"]
    return "| " + " | ".join(cells) + " |"


# ------------------------------------------------------------------ the originals


@contextmanager
def _imports(folder: Path, *names: str, **stubs: dict[str, Any]) -> Iterator[None]:
    """Modules from `folder`, with stand-ins for some; afterwards none of `names` is left behind."""
    for name in (*names, *stubs):
        sys.modules.pop(name, None)
    for name, values in stubs.items():
        module = types.ModuleType(name)
        module.__dict__.update(values)
        sys.modules[name] = module
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in (*names, *stubs):
            sys.modules.pop(name, None)


def _package(name: str, folder: Path) -> types.ModuleType:
    """A package whose own __init__ is not run: it would import what the model does not need."""
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module
    return module


def _helpers() -> dict[str, Any]:
    return {"init_weights": lambda layer, mean=0.0, std=0.01: None,
            "get_padding": lambda kernel, dilation=1: (kernel * dilation - dilation) // 2}


def _plain(theirs: nn.Module) -> Callable:
    def prepare(mel: Tensor) -> tuple[Callable[[], Tensor], Callable]:
        return (lambda: theirs(mel)), (lambda ours: float((theirs(mel) - ours(mel)).abs().max()))

    return prepare


def _hifigan(folder: Path, cls: type, preset: str) -> tuple[Callable, nn.Module]:
    settings = json.loads((folder / f"config_{preset[-2:]}.json").read_text())
    with _imports(folder, "models", "env", utils=_helpers()):
        from_env = importlib.import_module("env").AttrDict
        theirs = importlib.import_module("models").Generator(from_env(settings)).eval()
    ours = cls.from_published({"generator": theirs.state_dict()}, settings)
    theirs.remove_weight_norm()
    return _plain(theirs), ours


def _bigvgan(folder: Path, cls: type, preset: str) -> tuple[Callable, nn.Module]:
    settings = json.loads((folder / "configs" / "bigvgan_base_24khz_100band.json").read_text())
    with _imports(folder, "bigvgan", "env", "activations", utils=_helpers()):
        from_env = importlib.import_module("env").AttrDict
        theirs = importlib.import_module("bigvgan").BigVGAN(from_env(settings)).eval()
    ours = cls.from_published({"generator": theirs.state_dict()}, settings)
    theirs.remove_weight_norm()
    return _plain(theirs), ours


def _vocos(folder: Path, cls: type, preset: str) -> tuple[Callable, nn.Module]:
    import scipy.signal

    scipy.signal.cosine = scipy.signal.windows.cosine  # where it was when their code was written
    parts = {"_hz_to_mel": None, "_mel_to_hz": None}
    stubs = {"torchaudio": {}, "torchaudio.functional": {}, "torchaudio.functional.functional": parts}
    with _imports(folder, "vocos", "vocos.models", "vocos.heads", **stubs):
        _package("vocos", folder / "vocos")
        backbone = importlib.import_module("vocos.models").VocosBackbone(100, 512, 1536, 8).eval()
        head = importlib.import_module("vocos.heads").ISTFTHead(512, 1024, 256, "center").eval()
    state = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    ours = cls.from_published(state | {f"head.{k}": v for k, v in head.state_dict().items()}, {})

    def prepare(mel: Tensor) -> tuple[Callable[[], Tensor], Callable]:
        def theirs() -> Tensor:
            return head(backbone(mel))

        def compare(model: nn.Module) -> float:  # theirs ends a hop before ours
            made = theirs()
            return float((made - model(mel)[:, 0, : made.shape[-1]]).abs().max())

        return theirs, compare

    return prepare, ours


def _parallel_wavegan(folder: Path, cls: type, preset: str) -> tuple[Callable, nn.Module]:
    import scipy.signal

    scipy.signal.kaiser = scipy.signal.windows.kaiser
    home = folder / "parallel_wavegan"
    with _imports(folder, "parallel_wavegan", **{"parallel_wavegan.utils": {"read_hdf5": None}}):
        _package("parallel_wavegan", home).models = _package("parallel_wavegan.models", home / "models")
        layers = _package("parallel_wavegan.layers", home / "layers")
        block = importlib.import_module("parallel_wavegan.layers.residual_block")
        layers.Conv1d, layers.Conv1d1x1 = block.Conv1d, block.Conv1d1x1
        layers.WaveNetResidualBlock = block.WaveNetResidualBlock
        layers.upsample = importlib.import_module("parallel_wavegan.layers.upsample")
        model = importlib.import_module("parallel_wavegan.models.parallel_wavegan").ParallelWaveGANGenerator().eval()
    settings = {
        "sampling_rate": 22050, "hop_size": 256, "fft_size": 1024, "win_length": None, "num_mels": 80, "fmin": 80,
        "fmax": 7600, "generator_params": {"upsample_params": {"upsample_scales": [4, 4, 4, 4]}},
        "stats": {"mean": [0.0] * 80, "scale": [1.0] * 80},
    }
    ours = cls.from_published({"model": {"generator": model.state_dict()}}, settings)
    model.remove_weight_norm()

    def prepare(mel: Tensor) -> tuple[Callable[[], Tensor], Callable]:
        noise = torch.randn(1, 1, mel.shape[2] * 256)
        padded = nn.ReplicationPad1d(2)(mel)
        return (lambda: model(noise, padded)), (
            lambda own: float((model(noise, padded) - own.play(mel, noise)).abs().max()))

    return prepare, ours


def _diffwave(folder: Path, cls: type, preset: str) -> tuple[Callable, nn.Module]:
    with _imports(folder / "src", "diffwave", "diffwave.model", "diffwave.params"):
        _package("diffwave", folder / "src" / "diffwave")
        params = importlib.import_module("diffwave.params")
        model = importlib.import_module("diffwave.model").DiffWave(params.AttrDict(params.params)).eval()
    nn.init.normal_(model.output_projection.weight, std=0.1)  # it begins at zero
    ours = cls.from_published({"model": model.state_dict()}, {})
    beta = torch.tensor(params.params.inference_noise_schedule)
    alpha, total = 1 - beta, torch.cumprod(1 - beta, 0)
    steps = ours.steps_of(ours.config.schedule)

    def prepare(mel: Tensor) -> tuple[Callable[[], Tensor], Callable]:
        scaled = mel.sigmoid()  # their mels lie between 0 and 1

        def theirs() -> Tensor:
            audio = torch.randn(1, 256 * mel.shape[2])
            for n in range(len(beta) - 1, -1, -1):
                noise = model(audio, torch.tensor([steps[n]], dtype=torch.float32), scaled).squeeze(1)
                audio = (audio - beta[n] / (1 - total[n]).sqrt() * noise) / alpha[n].sqrt()
                if n:
                    audio = audio + ((1 - total[n - 1]) / (1 - total[n]) * beta[n]).sqrt() * torch.randn_like(audio)
                audio = audio.clamp(-1, 1)
            return audio

        return theirs, lambda own: None  # the golden numbers compare them; here each draws its own noise

    return prepare, ours


ORIGINALS = {"hifi-gan": _hifigan, "BigVGAN": _bigvgan, "vocos": _vocos, "ParallelWaveGAN": _parallel_wavegan,
             "diffwave": _diffwave}


if __name__ == "__main__":
    import tyro

    sys.exit(tyro.cli(Benchmark, description=__doc__).run())
