"""audiogen vocode: audio -> mel -> vocoder -> audio (copy synthesis), or mel files -> audio."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from audiogen.cli.generate import AUDIO_SUFFIXES, use_device
from audiogen.core.errors import UserError

MEL_SUFFIXES = (".npy", ".safetensors")
READABLE = (*AUDIO_SUFFIXES, ".mp3", ".opus", ".aif", ".aiff", *MEL_SUFFIXES)


@dataclass(frozen=True)
class Vocode:
    """Render mel spectrograms with the vocoder; audio is turned into mels first (copy synthesis).

    Copy synthesis is the ceiling of what a vocoder can do: listen to it beside the original. A mel is an array
    (n_mels, frames) in .npy, or the tensor "mel" in .safetensors. Audio of several channels is mixed down to one.

    --stream writes raw PCM of one clip to stdout, chunk by chunk, as soon as each is ready; what is said goes to
    stderr. With "-" as the input, mel frames are read from stdin: n_mels float32 numbers a frame, little-endian, frame
    after frame, until it ends.

    examples:
      audiogen vocode song.flac -o song-vocoded.wav
      audiogen vocode recordings/ -o vocoded/
      audiogen vocode mels/ --vocoder runs/vocoder/model -o heard/
      audiogen vocode song.flac --vocoder hifigan/ --stream | aplay -t raw -f S16_LE -r 22050
      my-generator | audiogen vocode - --vocoder hifigan/ --stream --chunk-frames 16 > clip.raw
    """

    inputs: Annotated[Positional[tuple[Path, ...]], arg(metavar="INPUT [INPUT ...]", help_behavior_hint="")]
    """Audio files, mel files, or folders of them."""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE|FOLDER")] = Path("vocoded")
    """A folder, or a file (.wav .flac .ogg) for a single input. Files of the same name are replaced."""
    checkpoint: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="(default: the shipped one)")] = None
    """An engine folder or a hub repository (owner/name, owner/name@revision#hash)."""
    vocoder: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="(default: the checkpoint's)")] = None
    """Another vocoder checkpoint."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: torch's choice)")] = None
    """CPU threads."""
    stream: bool = False
    """Write raw PCM of one channel to stdout while it is being made."""
    pcm: Literal["s16le", "f32le"] = "s16le"
    """Of --stream: 16-bit integers or 32-bit floats, little-endian."""
    chunk_frames: Annotated[int, arg(metavar="INT")] = 32
    """Of --stream: mel frames that are rendered at a time. Fewer are heard sooner and cost more."""

    def run(self) -> int:
        from audiogen.pipeline import Voice

        if self.stream:
            return self._stream()
        sources = _sources(self.inputs)
        file = self.out.suffix.lower() in AUDIO_SUFFIXES and not self.out.is_dir()
        if file and len(sources) > 1:
            raise UserError(f"{self.out} is one file and there are {len(sources)} inputs; name a folder")
        targets = {source: self.out if file else self.out / name for source, name in sources.items()}
        for source, target in targets.items():
            if source.resolve() == target.resolve():
                raise UserError(f"{target} would replace its own source; choose another -o")
        use_device(self.device, self.threads)
        voice = Voice.from_pretrained(self.checkpoint, vocoder=self.vocoder, device=self.device)
        rejected = 0
        for source, target in targets.items():
            try:
                made = voice.vocode(read_sound(source, voice.mel))
            except UserError as reason:
                if len(targets) == 1:
                    raise
                print(f"audiogen: {reason}", file=sys.stderr)
                rejected += 1
                continue
            made.save(target)
            print(f"{target}  {made.seconds:.2f} s", flush=True)
        if rejected:
            print(f"audiogen: {rejected} of {len(targets)} inputs could not be read", file=sys.stderr)
        return 2 if rejected else 0

    def _stream(self) -> int:
        from audiogen.cli.pcm import stream_pcm
        from audiogen.pipeline import Voice

        if len(self.inputs) != 1 or self.inputs[0].is_dir():
            raise UserError('--stream renders one clip: name one file, or "-" for mel frames on stdin')
        if self.out != Path("vocoded"):
            raise UserError(f"--stream writes to stdout and not to {self.out}: leave -o out, and use > or a pipe")
        if self.chunk_frames < 1:
            raise UserError(f"--chunk-frames {self.chunk_frames}: choose at least 1")
        use_device(self.device, self.threads)
        voice = Voice.from_pretrained(self.checkpoint, vocoder=self.vocoder, device=self.device)
        sound = None if str(self.inputs[0]) == "-" else read_sound(self.inputs[0], voice.mel)
        stream_pcm(voice, sound, chunk_frames=self.chunk_frames, pcm=self.pcm)
        return 0


def read_sound(path: Path, format):
    """-> `Audio`, or a mel tensor (n_mels, frames) out of a mel file; `format` is the vocoder's `MelFormat`."""
    from audiogen.core.audio import Audio

    if path.suffix.lower() not in MEL_SUFFIXES:
        sound = Audio.read(path)
        if sound.samples.shape[0] > 1:
            print(f"audiogen: {path} has {sound.samples.shape[0]} channels and vocoders one: they are mixed down",
                  file=sys.stderr)
        return sound
    import torch

    mel = _read_npy(path) if path.suffix.lower() == ".npy" else _read_safetensors(path, format)
    if mel.ndim == 3 and mel.shape[0] == 1:
        mel = mel[0]
    if mel.ndim != 2 or mel.shape[0] != format.n_mels or mel.shape[1] == 0:
        raise UserError(f"{path} holds an array of shape {tuple(mel.shape)}; a mel is ({format.n_mels}, frames)")
    if not torch.isfinite(mel).all():
        raise UserError(f"{path} holds NaN or infinite values")
    return mel


def _read_npy(path: Path):
    import numpy as np
    import torch

    try:
        return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
    except FileNotFoundError:
        raise UserError(f"no file at {path}") from None
    except (OSError, ValueError, EOFError, TypeError) as reason:
        raise UserError(f"{path} is no readable array ({reason})") from None


def _read_safetensors(path: Path, format):
    from safetensors import SafetensorError, safe_open

    from audiogen.core.config import from_dict
    from audiogen.core.mel_format import MelFormat

    try:
        with safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get("mel_format")
            mel = file.get_tensor("mel").float()
    except FileNotFoundError:
        raise UserError(f"no file at {path}") from None
    except (SafetensorError, OSError) as reason:
        raise UserError(f"{path} holds no tensor named mel ({reason})") from None
    if written:
        try:
            theirs = from_dict(MelFormat, json.loads(written))
        except ValueError as reason:
            raise UserError(f"{path} names an unreadable mel format ({reason})") from None
        theirs.require(format, mine=str(path), theirs="the vocoder")
    return mel


def _sources(inputs: tuple[Path, ...]) -> dict[Path, Path]:
    """Input file -> where its result goes below the output folder. Folders are walked; hidden files are passed over."""
    found: dict[Path, Path] = {}
    for path in inputs:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in READABLE and not p.name.startswith("."))
            if not files:
                raise UserError(f"{path} holds no audio and no mel file")
            found |= {file: file.relative_to(path).with_suffix(".wav") for file in files}
        elif path.exists():
            found[path] = Path(f"{path.stem}.wav")
        else:
            raise UserError(f"no file or folder at {path}")
    if not found:
        raise UserError("nothing to vocode: name audio files, mel files or folders")
    targets: dict[Path, Path] = {}
    for source, target in found.items():
        if target in targets:
            raise UserError(f"{targets[target]} and {source} would both be written to {target}; vocode them one by one")
        targets[target] = source
    return found
