"""audiogen pack: a manifest -> shards that a training streams."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from audiogen.core.errors import UserError


@dataclass(frozen=True)
class Pack:
    """Pack the files of a manifest into a few large tar files, as audio, mels or latents, for fast training.

    Train with --data.shards FOLDER, or with the address of a copy of it: https://..., s3://... The layout is that of
    WebDataset. Stopped, it goes on where it was; --verify checks every shard against its checksum.

    examples:
      audiogen pack manifest.jsonl -o shards/
      audiogen pack manifest.jsonl -o mels/ --what mel --shard-mb 512
      audiogen pack manifest.jsonl -o latents/ --what latent --checkpoint runs/vae/model
      audiogen pack --verify shards/
    """

    manifest: Annotated[Positional[Path | None], arg(metavar="[MANIFEST]", help_behavior_hint="")] = None
    """Written by audiogen scan."""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")] = Path("shards")
    """The folder of the shards."""
    what: Literal["audio", "mel", "latent"] = "audio"
    """What a sample holds: FLAC at the mel format's rate, log-mel frames, or an autoencoder's latents."""
    mel: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the engine's)")] = None
    """A mel format by name, such as hifigan_22k."""
    piece: Annotated[float, arg(metavar="SECONDS")] = 10.0
    """Files are cut into pieces of this length."""
    shard_mb: Annotated[float, arg(metavar="MB")] = 256.0
    """Size of a shard, about."""
    checkpoint: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: none)")] = None
    """The autoencoder that makes the latents."""
    workers: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: one a core)")] = None
    """Processes."""
    ray: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="(default: this machine)")] = None
    """Address of a Ray cluster that does the work (auto: the one that is running); all its machines see the folders."""
    device: str = "cpu"
    """Where latents are made."""
    max_skip: Annotated[float, arg(metavar="SHARE")] = 0.01
    """Share of the files that may turn out unreadable."""
    verify: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Check the shards of this folder, and pack nothing."""

    def run(self) -> int:
        if self.verify is not None:
            return _verify(self.verify)
        if self.manifest is None:
            raise UserError("name the manifest to pack: audiogen pack manifest.jsonl -o shards/; or a folder: --verify")
        from rich.progress import Progress

        from audiogen.core.mel_format import MelFormat, mel_format
        from audiogen.data.manifest import read_manifest
        from audiogen.data.pack import PackSettings, pack

        mel = mel_format(self.mel) if self.mel else MelFormat()
        settings = PackSettings(self.what, mel, self.piece, self.shard_mb, self.checkpoint, self.device)
        manifest = read_manifest(self.manifest)
        with Progress(transient=True, disable=not sys.stderr.isatty()) as progress:
            bar = progress.add_task("packing", total=None)
            packed = pack(manifest, self.out, settings, workers=self.workers, ray=self.ray, max_skip=self.max_skip,
                          done=lambda count, total: progress.update(bar, completed=count, total=total))
        index = packed.index
        samples, size = sum(s.samples for s in index.shards), sum(s.bytes for s in index.shards)
        print(f"{self.out}: {samples} pieces, {index.seconds / 60:.1f} minutes of {index.what} in {len(index.shards)} "
              f"shards, {size / 1e6:.1f} MB" + (f"; {packed.made} made now" if packed.made < len(index.shards) else ""))
        for path, reason in packed.rejects[:20]:
            print(f"left out: {path} ({reason})", file=sys.stderr)
        return 0


def _verify(folder: Path) -> int:
    from audiogen.data.shard_store import read_index
    from audiogen.data.shards import verify

    index = read_index(str(folder))
    wrong = list(verify(folder, index))
    for line in wrong:
        print(line)
    if wrong:
        raise UserError(f"{len(wrong)} of {len(index.shards)} shards in {folder} are not as they were packed: pack "
                        "again, which makes only those anew")
    print(f"{folder}: all {len(index.shards)} shards are whole")
    return 0
