"""Any vocoder on a folder of sounds: log-mel in, waveform out. One recipe for all families.

    audiogen train vocoder --data.folder my_sounds/ --train.run runs/mine
    audiogen train vocoder --preset hifigan_v1 --data.folder my_sounds/
    audiogen train vocoder --preset vocos --data.manifests a.jsonl b.jsonl --model.channels 128
    audiogen train vocoder --init runs/mine/model --data.folder my_sounds/ --data.mels generated/ --train.run runs/tuned
    accelerate launch recipes/vocoder.py --preset bigvgan_v2_24k_100band_256x --data.manifests manifest.jsonl
    audiogen vocode clip.wav --vocoder runs/mine/model -o copy.wav

Smoke: audiogen train vocoder --preset vocos --data.folder my_sounds/ --train.steps 10 --train.batch-size 2

`--preset` is a family's name, which is its small form for a CPU, or a published configuration with the published
losses and optimizer; every field can be changed. `--init` goes on from a checkpoint folder of ours, or from a published
weights file with its config beside it. Files with `--data.mels` train on a generator's own mels. What cannot work is
said before the first step, and scores.json beside the weights tells how near held-out clips come to the originals.

A run of the default, `parallel_wavegan`, has three parts, by step: until `losses.magnitude_steps` only its network at
frame rate learns, which costs a tenth; then everything learns from spectral losses; from `losses.start` on against a
discriminator. `--train.overfit 1` must bring "mel" of one batch below 0.9 natural log units, or "magnitude" of the
default below 0.6; WaveNet's and DiffWave's own loss must fall by a third. Cost and scores of what is shipped, and its
commands: audiogen/pretrained/default/vocoder/README.md.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError
from audiogen.core.rng import SampleRng
from audiogen.training.config import TrainConfig
from audiogen.training.processes import processes
from vocoders.discriminators import DiscriminatorConfig
from vocoders.gan import GANConfig
from vocoders.parallel_wavegan import ParallelWaveGANConfig

DEFAULT = "parallel_wavegan"
NEIGHBOURS = 101  # samples
FINE_TUNE_START = 500  # a new discriminator looks on so long before it teaches a trained generator

# -------------------------------------------------------------------------------- presets: one row each
# family or beginning of a published name -> losses, optimizer and segment. The longest name that fits counts.

SMALL = dict(magnitude_steps=0, start=4_000)
PERIOD_AND_SCALE = DiscriminatorConfig(kinds=("multi_period", "multi_scale"))
HIFIGAN = dict(stft=0.0, mel=45.0, adversarial=1.0, features=2.0, relative_features=False, reduce="sum", start=0,
               magnitude_steps=0)

ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    # small forms of our own, for a CPU
    "": (SMALL, dict(steps=20_000, batch_size=8, learning_rate=5e-4, betas=(0.8, 0.99), weight_decay=1e-4, clip=5.0),
         64),
    "parallel_wavegan": ({}, dict(steps=13_000, batch_size=8, learning_rate=6e-4, betas=(0.8, 0.99), weight_decay=1e-4,
                                  clip=5.0), 64),
    "multiband_22k": ({}, dict(steps=13_000, batch_size=8, learning_rate=6e-4, betas=(0.8, 0.99), weight_decay=1e-4,
                               clip=5.0), 64),
    "wavenet": ({}, dict(steps=50_000, batch_size=8, learning_rate=1e-3, clip=1.0), 40),
    "diffwave": ({}, dict(steps=50_000, batch_size=8, learning_rate=2e-4, clip=1.0), 62),
    # published: van den Oord et al. in r9y9's form, Kong et al. 2021, Yamamoto et al., Kong et al. 2020, Lee et al.,
    # Siuzdak, Kumar et al.
    "wavenet_": ({}, dict(steps=1_000_000, batch_size=8, learning_rate=1e-3, clip=1.0, ema=0.9999), 40),
    "diffwave_": ({}, dict(steps=1_000_000, batch_size=16, learning_rate=2e-4, clip=1.0), 62),
    "parallel_wavegan_": (
        dict(stft=1.0, mel=0.0, adversarial=4.0, features=0.0, start=100_000, magnitude_steps=0),
        dict(steps=400_000, batch_size=6, learning_rate=1e-4, clip=10.0), 100,
    ),
    "hifigan_": (HIFIGAN | dict(discriminator=PERIOD_AND_SCALE),
                 dict(steps=2_500_000, batch_size=16, learning_rate=2e-4, betas=(0.8, 0.99), clip=1000.0), 32),
    "bigvgan_": (
        HIFIGAN | dict(discriminator=DiscriminatorConfig(kinds=("multi_period", "multi_resolution"))),
        dict(steps=1_000_000, batch_size=32, learning_rate=1e-4, betas=(0.8, 0.99), clip=1000.0), 32,
    ),
    "bigvgan_v2_": (
        HIFIGAN | dict(mel=0.0, multi_scale_mel=15.0,
                       discriminator=DiscriminatorConfig(kinds=("multi_period", "sub_band_cqt"), filters=128)),
        dict(steps=5_000_000, batch_size=32, learning_rate=1e-4, betas=(0.8, 0.99), clip=500.0), 256,
    ),
    "vocos_": (
        HIFIGAN | dict(hinge=True, reduce="mean", features=1.0, discriminator=DiscriminatorConfig(
            kinds=("multi_period", "multi_band"), weights=(1.0, 0.1))),
        dict(steps=1_000_000, batch_size=16, learning_rate=5e-4, betas=(0.8, 0.9), clip=1000.0), 64,
    ),
    "melgan_": (
        HIFIGAN | dict(mel=0.0, hinge=True, features=10.0, discriminator=DiscriminatorConfig(kinds=("multi_scale",))),
        dict(steps=3_000_000, batch_size=16, learning_rate=1e-4, betas=(0.5, 0.9), clip=1000.0), 32,
    ),
    "multiband_melgan_": (
        dict(stft=1.0, mel=0.0, adversarial=2.5, features=0.0, start=200_000, magnitude_steps=0,
             discriminator=DiscriminatorConfig(kinds=("multi_scale",))),
        dict(steps=1_000_000, batch_size=64, learning_rate=1e-3, betas=(0.9, 0.999), clip=10.0), 64,
    ),
}


def presets() -> dict[str, tuple[str, Any]]:
    """name -> (family, model config): each family's small form under its own name, and what it published."""
    from audiogen.core.registry import resolve, table

    found: dict[str, tuple[str, Any]] = {}
    for family in table("vocoder"):
        cls = resolve("vocoder", family)
        if family != "griffin_lim":  # has nothing to learn
            found[family] = (family, cls.config_type())
            found |= {name: (family, config) for name, config in getattr(cls, "presets", {}).items()}
    return found


@dataclass(frozen=True)
class Data:
    """What to train on: a folder, manifests, or shards."""

    folder: Path | None = None
    """A folder of audio; it is scanned into the run's folder first."""
    manifests: tuple[Path, ...] = ()
    """Written by `audiogen scan`; each is drawn from as often, one that is named twice twice as often."""
    shards: str | None = None
    """In place of these: audio that `audiogen pack` wrote, a folder or an address (https://..., s3://...). What to
    leave out is chosen before it is packed."""
    mels: Path | None = None
    """A folder of a generator's own mels of these files, .npy or .safetensors of the same names: fine-tunes on them."""
    frames: int = 64
    """Length of a training segment, in mel frames."""
    peak_db: tuple[float, float] = (-26.0, -0.5)
    """Every segment is brought to a random peak in this range, in dB of full scale."""
    overlay: float = 0.25
    """Share of the segments on which one to three others are laid."""
    silent: float = 0.1
    """Share of the silent segments (below -60 dB) that are kept; the others are drawn anew, up to four times."""
    open_only: bool = False
    """Only files whose `licence` tag is public domain, CC0, CC-BY or MIT."""
    cache: bool = True
    """Decode everything once into memory (159 MB an hour)."""


@dataclass(frozen=True)
class Recipe:
    """Train a vocoder."""

    preset: str = DEFAULT
    """A family or a published configuration."""
    data: Data = Data()
    model: ParallelWaveGANConfig = ParallelWaveGANConfig()
    losses: GANConfig = GANConfig()
    train: TrainConfig = field(default_factory=lambda: TrainConfig(run=Path("runs/vocoder"), **ROWS[DEFAULT][1]))
    init: Path | None = None
    """A checkpoint folder, or a published weights file, to begin with."""
    init_settings: Path | None = None
    """The published file's configuration; None: config.json, .yaml or .yml beside it."""
    demos: int = 4
    """Clips of the valid split (of the train split, where there is none) that are rendered again as demos."""
    scored: int = 8
    """Clips of up to three seconds of the same split that are scored at the end; 0: none."""
    score_against: Path | None = None
    """What `audiogen embed REAL/ --short pad -o real.npz` wrote: demos are scored by it, and best/ keeps the best."""
    speech: bool = False
    """The sounds are speech: PESQ and STOI too, where the packages pesq and pystoi are installed."""

    @classmethod
    def specialise(cls, words: Sequence[str]) -> type[Recipe]:
        """The recipe with the fields and defaults of the preset (or of the checkpoint) that the command line names."""
        from audiogen.cli import said
        from audiogen.cli.preset import preset_field, with_fields

        preset, init = said(words, "--preset"), said(words, "--init")
        known = presets()
        if preset is None and init is not None and Path(init).exists():  # where it is not, `run` says so
            settings = said(words, "--init-settings")
            start = read_start(Path(init), Path(settings) if settings else None).config
            family = next(name for name, (_, config) in known.items() if type(config) is type(start))
            preset = next((name for name, (_, config) in known.items() if config == start), family)
            model = start
        else:
            preset = preset or DEFAULT
            if preset not in known:
                raise UserError(f"no preset is called {preset!r}{did_you_mean(preset, known)}")
            model = known[preset][1]
        losses, train, frames = row(preset, model)
        if init is not None:
            losses = dataclasses.replace(losses, magnitude_steps=0, start=min(losses.start, FINE_TUNE_START))
        fields = {
            "preset": preset_field(known, preset), "data": (Data, Data(frames=frames)),
            "model": (type(model), model), "losses": (GANConfig, losses), "train": (TrainConfig, train),
        }
        return with_fields(cls, fields)

    def run(self) -> int:
        from audiogen.core.registry import name_of
        from audiogen.data.segments import collate
        from audiogen.training.fit import fit
        from vocoders.gan import VocoderTask

        torch.manual_seed(self.train.seed)
        if self.train.threads:
            torch.set_num_threads(self.train.threads)
        judge = None
        if self.score_against is not None:
            from evaluation.in_training import demo_judge

            judge = demo_judge(self.score_against)
        cls = _class_of(self.model)
        packed = self._packed("train") if self.data.shards is not None else None
        manifests = self._manifests() if packed is None else []
        model = self._begin(cls)
        task = VocoderTask(model, self.losses, clips=self._held_out(manifests, self.demos))
        self._check(task)
        if self.data.mels is not None:
            from audiogen.data.mel_pairs import MelPairs, collate_pairs

            parts = [MelPairs(self._usable(manifest, path), self.model.mel, self.data.mels, frames=self.data.frames,
                              seed=self.train.seed) for path, manifest in manifests]
            dataset: Dataset = parts[0] if len(parts) == 1 else _InTurn(parts)
            collate = collate_pairs
        elif packed is not None:
            dataset = Overlaid([packed], self.data, seed=self.train.seed, apart=NEIGHBOURS)
        else:
            dataset = Overlaid(self._segments(manifests), self.data, seed=self.train.seed)
        if self.init is None:
            set_statistics(model, dataset, self.model.mel)
        seconds = {path: sum(entry.seconds for entry in manifest) for path, manifest in manifests}
        total = sum(seconds.values()) if packed is None else packed.index.seconds
        labels = {"recipe": "vocoder", "preset": self.preset, "minutes": round(total / 60, 1)}
        summary = fit(task, dataset, self.train, collate=collate, recipe=self, labels=labels,
                      overfit_below=task.overfit_below, judge=judge)
        finished = not (summary.interrupted or self.train.plan or self.train.overfit)
        if finished and self.scored and processes().is_main_process:
            name = name_of("vocoder", cls)
            self._score(self._held_out(manifests, self.scored), name=name)
        return summary.exit_code

    # ------------------------------------------------------------------ data

    def _manifests(self) -> list[tuple[Path, Any]]:
        """(path, manifest) of all that is trained on; the folder is scanned once, by the first process."""
        from audiogen.data.manifest import read_manifest

        paths = list(self.data.manifests)
        if self.data.folder is not None:
            scanned = self.train.run / "manifest.jsonl"
            with processes().local_main_process_first():
                if not scanned.is_file():
                    self._scan(scanned)
            paths.append(scanned)
        if not paths:
            raise UserError("name what to train on: --data.folder SOUNDS/, --data.manifests manifest.jsonl, or "
                            "--data.shards SHARDS/")
        read = {path: read_manifest(path) for path in dict.fromkeys(paths)}
        return [(path, read[path]) for path in paths]

    def _packed(self, split: str, frames: int = 0) -> Any:
        from audiogen.data.packed import PackedDataset

        if self.data.folder or self.data.manifests or self.data.mels or self.data.open_only:
            raise UserError("--data.shards stands in place of --data.folder, --data.manifests, --data.mels and "
                            "--data.open-only: choose what to train on before you pack it")
        found = PackedDataset(self.data.shards, self.model.mel, frames=frames or self.data.frames,
                              seed=self.train.seed, split=split)
        if found.index.what != "audio":
            raise UserError(f"{self.data.shards} holds {found.index.what}s, and vocoders need audio: pack with --what "
                            "audio")
        return found

    def _held_out(self, manifests: list[tuple[Path, Any]], count: int) -> list[Tensor]:
        """Up to three seconds of `count` clips of the valid split, or of the train split where there is none."""
        if manifests:
            return self._clips(manifests[0], count)
        rate, hop_length = self.model.mel.sample_rate, self.model.mel.hop_length
        splits = {shard.split for shard in self._packed("train").index.shards}
        packed = self._packed("valid" if "valid" in splits else "train", 3 * rate // hop_length)
        examples = [packed[k] for k in range(min(count, len(packed)))]
        sounds = [example.audio[:, : example.length * hop_length] for example in examples]
        return [sound for sound in sounds if sound.shape[1] >= 8 * hop_length]

    def _scan(self, out: Path) -> None:
        from audiogen.data.scan import scan

        found = scan(self.data.folder)
        out.parent.mkdir(parents=True, exist_ok=True)
        rejects = found.write(out)
        print(f"{self.data.folder}: {len(found.manifest)} files, {found.manifest.seconds / 60:.1f} minutes"
              + (f"; {len(found.rejects)} rejected, see {rejects}" if found.rejects else ""), flush=True)

    def _segments(self, manifests: list[tuple[Path, Any]]) -> list[Dataset]:
        from audiogen.data.segments import SegmentDataset

        sources = {
            path: SegmentDataset(
                self._usable(manifest, path), self.model.mel, frames=self.data.frames, seed=self.train.seed,
                weights="seconds", cache=self.data.cache,
            )
            for path, manifest in dict(manifests).items()
        }
        return [sources[path] for path, _ in manifests]

    def _usable(self, manifest: Any, path: Path, split: str = "train") -> Any:
        """The manifest's entries of a split that may be used and reach up to the mel format's highest frequency."""
        from audiogen.data.manifest import Manifest
        from audiogen.data.notes import is_open
        from vocoders.preflight import check_sample_rates

        entries = [
            entry for entry in manifest.select(split=split, duplicates=False)
            if not self.data.open_only or is_open(str(entry.tags.get("licence", "")))
        ]
        kept = check_sample_rates(entries, self.model.mel.sample_rate, where=str(path))
        if not kept and split == "train":
            raise UserError(
                f"{path}: none of its {len(manifest)} files can be used (split 'train'"
                f"{', an open licence' if self.data.open_only else ''})"
            )
        return Manifest(tuple(kept), manifest.root)

    def _clips(self, source: tuple[Path, Any], count: int) -> list[Tensor]:
        """The first three seconds of `count` files, spread over the manifest: (1, time) each."""
        from audiogen.data.segments import read_segment

        path, manifest = source
        held_out = self._usable(manifest, path, "valid") if manifest.select(split="valid").entries else None
        manifest = held_out if held_out is not None and len(held_out) else self._usable(manifest, path)
        if not count:
            return []
        stride = max(1, len(manifest) // count)
        rate, hop_length = self.model.mel.sample_rate, self.model.mel.hop_length
        sounds = [
            torch.from_numpy(read_segment(manifest.audio(entry), 0, 3 * rate, rate))[None]
            for entry in manifest.entries[::stride][:count]
        ]
        return [sound for sound in sounds if sound.shape[1] >= 8 * hop_length]

    # ------------------------------------------------------------------ model, checks, scores

    def _begin(self, cls: type[nn.Module]) -> nn.Module:
        model = cls(self.model)
        if self.init is not None:
            start = read_start(self.init, self.init_settings)
            if type(start) is not cls:
                raise UserError(f"--init {self.init} holds a {type(start).__name__}, and --preset {self.preset} is a "
                                f"{cls.__name__}: leave --preset away")
            self.model.mel.require(start.config.mel, mine="this recipe", theirs=f"the checkpoint {self.init}")
            if start.config != self.model:
                raise UserError(f"--init {self.init} is another model ({start.config}) than --model asks for: leave "
                                "--preset and --model away, and it is taken as it is")
            model.load_state_dict(start.state_dict())
        return model

    def _check(self, task: Any) -> None:
        """All that can be known before the first step."""
        from vocoders.preflight import check_disk, check_length, check_memory, check_segment

        before = self.train.run / "recipe.json"
        if before.is_file() and (self.train.run / "states").is_dir():
            from audiogen.core.config import to_dict

            if json.loads(before.read_text()).get("model") != json.loads(json.dumps(to_dict(self.model))):
                raise UserError(f"{self.train.run} holds the run of another model: choose another --train.run, or give "
                                "the same --preset and --model as before")
        check_segment(task, self.data.frames)
        check_length(task.model)
        check_disk(task, self.train.run, keep=self.train.keep)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        clips = max(1, self.train.batch_size // self.train.accumulation)
        check_memory(task, clips=clips, frames=self.data.frames, accumulation=self.train.accumulation, device=device)

    def _score(self, clips: list[Tensor], *, name: str) -> None:
        """Copy synthesis of held-out clips against the originals, into scores.json beside the weights."""
        from audiogen.core.checkpoint import load_checkpoint
        from audiogen.core.files import whole_file
        from evaluation.vocoder_scores import score_pairs
        from vocoders.gan import copy_synthesis

        path = self.train.run / "model" / "scores.json"
        if not clips or not path.is_file():
            print("no held-out clip is long enough to be scored")
            return
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = load_checkpoint(self.train.run / "model", room="vocoder", device=str(device)).model
        copy_synthesis(model, clips[0], rng=SampleRng(0))  # the first call plans and compiles
        pairs, seconds, began = [], 0.0, time.monotonic()
        for index, clip in enumerate(clips):
            pairs.append((clip, copy_synthesis(model, clip, rng=SampleRng(0, ids=[index]))))
            seconds += clip.shape[1] / self.model.mel.sample_rate
        speed = seconds / (time.monotonic() - began)
        found = score_pairs(pairs, self.model.mel.sample_rate, speech=self.speech)
        found |= {"real_time": round(speed, 2), "device": str(device), "threads": torch.get_num_threads()}
        values = json.loads(path.read_text(encoding="utf-8")) | {"copy_synthesis": found}
        with whole_file(path) as part:
            part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        shown = "  ".join(f"{key} {value['mean']:.4g}" for key, value in found["scores"].items()
                          if isinstance(value, dict))
        print(f"{name} on {found['clips']} clips: {shown}  |  {speed:.1f} x real time", flush=True)


class Overlaid(Dataset):
    """Segments of several datasets, some laid over each other, at random peaks. Item k depends on (seed, k) only.

    apart: how far from k stand the samples that are laid over it. Packed ones should be of the same shards.
    """

    def __init__(self, parts: list[Dataset], data: Data, *, seed: int, apart: int = 1 << 40) -> None:
        self.parts, self.data, self.seed, self.apart = parts, data, seed, apart

    def __getitem__(self, k: int):
        draws = SampleRng(self.seed, ids=[k], stream="overlay").rand(8).double()[0].tolist()
        example = self._sounding(k, self.parts[int(draws[0] * len(self.parts))])
        audio = _at_peak(example.audio, 0.0)
        if draws[1] < self.data.overlay:
            for extra in range(1 + int(draws[2] * 3)):
                other = self.parts[int(draws[3 + extra] * len(self.parts))][k + (extra + 1) * self.apart]
                audio = audio + _at_peak(other.audio, -12.0 * draws[6])
        low, high = self.data.peak_db
        return example._replace(audio=_at_peak(audio, low + draws[7] * (high - low)), length=self.data.frames, id=k)

    def _sounding(self, k: int, part: Dataset):
        """Segment k, or where it is silent mostly another one: silence teaches little, but must not be unknown."""
        example = part[k]
        for again in range(4):
            if float(example.audio.abs().max()) >= 1e-3:
                break
            if float(SampleRng(self.seed, ids=[k], stream=f"silent/{again}").rand(1)) < self.data.silent:
                break
            example = part[k + (again + 4) * self.apart]
        return example

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)


class _InTurn(Dataset):
    """Item k of dataset k modulo their number."""

    def __init__(self, parts: list[Dataset]) -> None:
        self.parts = parts

    def __getitem__(self, k: int):
        return self.parts[k % len(self.parts)][k]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)


def row(preset: str, model: Any) -> tuple[GANConfig, TrainConfig, int]:
    """Losses, optimizer and segment of a preset: of the longest row whose name it begins with."""
    names = [name for name in ROWS if preset == name or (preset.startswith(name) and name[-1:] in ("_", ""))]
    losses, train, frames = ROWS[max(names, key=len)]
    context = getattr(model, "context_frames", None) or 0
    frames = max(frames, -(-(2 * context + 1) // 8) * 8)
    return GANConfig(**losses), TrainConfig(run=Path(f"runs/{preset}"), **train), frames


def read_start(path: Path, settings: Path | None = None) -> nn.Module:
    """The model of a checkpoint folder of ours, or of a published weights file with its configuration."""
    from audiogen.core.checkpoint import load_checkpoint
    from audiogen.core.registry import resolve
    from vocoders.published import detect, read_settings, read_weights

    if path.is_dir() or not path.exists():
        return load_checkpoint(path, room="vocoder").model
    content = read_weights(path)
    if settings is None:
        beside = (path.with_name(f"config{suffix}") for suffix in (".json", ".yaml", ".yml"))
        settings = next((file for file in beside if file.is_file()), None)
    return resolve("vocoder", detect(content)).from_published(content, read_settings(settings) if settings else {})


def set_statistics(model: nn.Module, dataset: Dataset, format: Any) -> None:
    """Where the model normalises its mels, by the mean and spread of each band over 64 training segments."""
    from audiogen.signal.mel import MelSpectrogram

    buffers = dict(model.named_buffers(recurse=False))
    if not {"mean", "scale"} <= set(buffers) or buffers["mean"].shape != (format.n_mels,):
        return
    items = [dataset[k] for k in range(1 << 50, (1 << 50) + 64)]
    mels = [item.mel if item.mel is not None else MelSpectrogram(format)(item.audio)[0] for item in items]
    frames = torch.cat(mels, 1)
    model.mean.copy_(frames.mean(1))
    model.scale.copy_(frames.std(1).clamp(min=0.1 * float(frames.std()) + 1e-3))


def _class_of(config: Any) -> type[nn.Module]:
    from audiogen.core.registry import resolve, table

    return next(cls for cls in (resolve("vocoder", name) for name in table("vocoder"))
                if cls.config_type is type(config))


def _at_peak(audio: Tensor, peak_db: float) -> Tensor:
    """Silence stays silence."""
    peak = float(audio.abs().max())
    return audio * (10 ** (peak_db / 20) / peak) if peak > 1e-4 else audio


if __name__ == "__main__":
    from audiogen.cli import recipe_main

    recipe_main(Recipe)
