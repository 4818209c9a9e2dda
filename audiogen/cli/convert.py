"""audiogen convert: a vocoder as its authors published it -> a checkpoint folder of ours."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from audiogen.core.errors import UserError

SETTINGS = ("config.json", "config.yaml", "config.yml", "hparams.json")  # what lies beside published weights
STATISTICS = ("stats.h5", "stats.npy")


@dataclass(frozen=True)
class Convert:
    """Read a published vocoder (WaveNet, Parallel WaveGAN, DiffWave, HiFi-GAN, BigVGAN, MelGAN, Vocos) and save it as a
    checkpoint folder: weight norms folded away, float32, safetensors.

    Torch files are opened without running code that they hold. Every tensor of the file is used or named in an error.
    The licence of the weights stays that of their authors.

    examples:
      audiogen convert g_02500000 --config config.json -o hifigan/
      audiogen convert checkpoint-400000steps.pkl --config config.yml --stats stats.h5 -o pwg/
      audiogen convert pytorch_model.bin -o vocos/
    """

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """The published weights: .pt, .pth, .pkl, .bin, .ckpt or .safetensors."""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
    """The checkpoint folder to write; a checkpoint that is there is replaced."""
    config: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: the one beside FILE)")] = None
    """The original's configuration, .json or .yaml."""
    stats: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: those beside FILE)")] = None
    """Mean and scale of the corpus's mels, .h5 or .npy, for models that were trained on normalised mels."""
    family: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: told by the weights)")] = None
    """The vocoder's name, as audiogen info lists it."""
    mel: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: told by the configuration)")] = None
    """The mel format by name, such as hifigan_22k, where the original's configuration does not tell it."""

    def run(self) -> int:
        from audiogen.core.checkpoint import save_checkpoint
        from audiogen.core.mel_format import mel_format
        from vocoders.published import read_settings, read_weights

        _check_target(self.out)
        content = read_weights(self.file)
        family = _family(content, self.family, self.file)
        config = self.config or _beside(self.file, SETTINGS)
        stats = self.stats or _beside(self.file, STATISTICS)
        settings = read_settings(config) if config else {}
        if stats:
            settings = {**settings, "stats": read_statistics(stats)}
        model = _build(family, content, settings, mel=mel_format(self.mel) if self.mel else None, file=self.file)
        source = {
            "file": self.file.name, "sha256": hashlib.sha256(self.file.read_bytes()).hexdigest(), "family": family,
            "config": config.name if config else None, "stats": stats.name if stats else None,
        }
        save_checkpoint(self.out, model, room="vocoder", labels={"published": source}, card=card(family, source, model))
        weights = sum(parameter.numel() for parameter in model.parameters())
        print(f"{self.out}  {family}, {weights / 1e6:.2f} million weights, mel format {model.config.mel.hash()}: "
              f"{model.config.mel.sample_rate} Hz, {model.config.mel.n_mels} bands"
              + "".join(f", read with {path}" for path in (config, stats) if path))
        return 0


def read_statistics(path: Path) -> dict[str, Any]:
    """stats.h5 of ParallelWaveGAN (arrays "mean" and "scale"), or .npy of two rows -> {"mean", "scale"} float32."""
    import numpy as np

    from evaluation.embedders.hdf5 import read_hdf5

    try:
        if path.suffix.lower() == ".npy":
            rows = np.load(path, allow_pickle=False)
            if rows.ndim != 2 or len(rows) != 2:
                raise UserError(f"{path} holds an array of shape {rows.shape}; two rows, mean and scale, are needed")
            found = {"mean": rows[0], "scale": rows[1]}
        elif path.suffix.lower() in (".h5", ".hdf5"):
            found = read_hdf5(path.read_bytes(), what=str(path))
        else:
            raise UserError(
                f"{path} is neither .h5 nor .npy (a .joblib is a pickle, which is never read: save mean and scale as "
                "an array of two rows with numpy.save)"
            )
    except FileNotFoundError:
        raise UserError(f"no file at {path}") from None
    except UserError:
        raise
    except (OSError, ValueError, EOFError) as reason:
        raise UserError(f"{path} is no readable array ({reason})") from None
    missing = [name for name in ("mean", "scale") if name not in found]
    if missing:
        raise UserError(f"{path} holds {', '.join(found) or 'no array'}, and not {' and '.join(missing)}")
    return {name: np.asarray(found[name], dtype=np.float32) for name in ("mean", "scale")}


def card(family: str, source: dict[str, Any], model: Any) -> str:
    """The checkpoint's README.md."""
    return (
        f"# {family}, from {source['file']}\n\n"
        "Converted from published weights by `audiogen convert`; nothing was trained. The licence, the training data "
        "and the terms of use are those of the original: look them up where the file comes from, and write them "
        "here.\n\n| | |\n|---|---|\n"
        + "".join(f"| {name} | `{value}` |\n" for name, value in source.items() if value)
        + f"\nMel format: `{json.dumps(model.config.mel.differences(type(model.config.mel)()))}` against the default.\n"
    )


def _check_target(out: Path) -> None:
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "config.json").is_file())):
        raise UserError(f"{out} is there and is no checkpoint folder: choose another -o")


def _beside(file: Path, names: tuple[str, ...]) -> Path | None:
    return next((file.parent / name for name in names if (file.parent / name).is_file()), None)


def _family(content: dict[str, Any], wanted: str | None, file: Path) -> str:
    from audiogen.core.registry import resolve, table
    from vocoders.published import detect

    readable = [name for name in table("vocoder") if hasattr(resolve("vocoder", name), "from_published")]
    if wanted is not None and wanted not in readable:
        raise UserError(f"--family {wanted!r}: published weights are read of {', '.join(readable)}")
    try:
        found = detect(content)
    except UserError as reason:
        raise UserError(f"{file}: {reason}") from None
    if wanted is not None and wanted != found:
        raise UserError(f"{file} holds weights of {found}, not of {wanted}: leave --family out")
    return found


def _build(family: str, content: dict[str, Any], settings: dict[str, Any], *, mel: Any, file: Path) -> Any:
    from audiogen.core.registry import resolve

    try:
        return resolve("vocoder", family).from_published(content, settings, mel=mel).eval()
    except UserError as reason:
        raise UserError(f"{file}: {reason}") from None
    except (KeyError, IndexError, AttributeError, TypeError) as reason:
        what = f"{reason} is missing" if isinstance(reason, KeyError) else str(reason)
        raise UserError(f"{file} is incomplete, or of another version of {family}: {what}") from None
