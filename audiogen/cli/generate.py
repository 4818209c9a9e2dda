"""audiogen generate: prompts -> clips, each with what made it written inside."""

from __future__ import annotations

import dataclasses
import math
import re
import secrets
import time
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from audiogen.core.errors import UserError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg")
OTHER_SUFFIXES = (".mp3", ".m4a", ".aac", ".opus", ".aif", ".aiff", ".wma")  # these name a file too


@dataclass(frozen=True)
class Generate:
    """Make clips from prompts.

    Each clip is written as SLUG-SEED.wav, with a line that says how fast it was made; it carries prompt, seed, sampling
    and checkpoint in itself, so that "audiogen again" can make it again.

    examples:
      audiogen generate "slow felt piano, melancholic" --seconds 8
      audiogen generate rain "lively bagpipe jig" -n 3 --seed 7 -o clips/ --png
      audiogen generate --style "grand piano:0.7" --style cello:0.3 --key "A minor" --bpm 90 -o duo.wav
      audiogen generate flute --score tune.mid -o tune.flac
      audiogen generate --prompts prompts.txt -o clips/
    """

    text: Annotated[Positional[tuple[str, ...]], arg(metavar="[PROMPT ...]", help_behavior_hint="")] = ()
    """What to hear; several prompts make several clips."""
    prompts: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Prompts from a file: one a line, or one JSON object a line with the fields of a prompt."""
    count: Annotated[int, arg(aliases=["-n"])] = 1
    """Clips of each prompt, with the seeds SEED, SEED + 1, ..."""
    seconds: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: 8)")] = None
    """Length of a clip, exactly; at most 600."""
    seed: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: drawn, and printed)")] = None
    """The same seed gives the same clip."""
    style: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME:WEIGHT", help_behavior_hint="")] = ()
    """A style of the checkpoint (audiogen info lists them), with a weight; give several to mix them."""
    negative: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    """What must not be heard."""
    bpm: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")] = None
    """Tempo in beats per minute."""
    key: Annotated[str | None, arg(metavar="KEY", help_behavior_hint="")] = None
    """Key, such as "A minor" or "F# major"."""
    metre: Annotated[str | None, arg(metavar="METRE", help_behavior_hint="")] = None
    """Metre, such as 3/4."""
    score: Annotated[Path | None, arg(metavar="FILE.mid", help_behavior_hint="")] = None
    """Notes to be played, as a MIDI file."""
    steps: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: the checkpoint's)")] = None
    """Steps of the sampler: more is slower, and better up to a point."""
    guidance: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: the checkpoint's)")] = None
    """How strictly the prompt is followed; 1 switches guidance off."""
    sampler: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the checkpoint's)")] = None
    """euler, heun, ddim, ancestral or dpmpp_2m."""
    temperature: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: the checkpoint's)")] = None
    """Of families that draw frame by frame, token by token or sample by sample: below 1 tamer, above 1 wilder."""
    precision: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: the checkpoint's)")] = None
    """Of the weights of a wavenet: float32, or bfloat16 and int8, which are faster and rougher."""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE|FOLDER")] = Path(".")
    """A folder, or a file (.wav .flac .ogg) for a single clip. A named file is replaced."""
    overwrite: bool = False
    """In a folder: replace clips of the same name. Otherwise new ones are numbered."""
    png: bool = False
    """Write the spectrogram beside each clip as PNG."""
    checkpoint: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="(default: the shipped one)")] = None
    """An engine folder, a generator checkpoint or a hub repository (owner/name, owner/name@revision#hash)."""
    vocoder: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="(default: the checkpoint's)")] = None
    """Another vocoder checkpoint of the same mel format."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: torch's choice)")] = None
    """CPU threads."""

    def run(self) -> int:
        self._check()
        prompts = self._prompts()
        file = _is_file(self.out)
        if file and len(prompts) * self.count > 1:
            raise UserError(f"{self.out} is one file, {len(prompts) * self.count} clips are asked for: name a folder")
        if not file and self.out.exists() and not self.out.is_dir():
            raise UserError(f"{self.out} exists and is no folder")

        engine = load_engine(self.checkpoint, vocoder=self.vocoder, device=self.device, threads=self.threads)
        import torch

        first = secrets.randbelow(2**31) if self.seed is None else self.seed
        taken: set[Path] = set()
        for prompt in prompts:
            for seed in range(first, first + self.count):
                start = time.perf_counter()
                audio = engine.generate(
                    prompt, seed=seed, steps=self.steps, guidance=self.guidance, sampler=self.sampler,
                    temperature=self.temperature, precision=self.precision,
                )
                took = time.perf_counter() - start
                # The number of threads orders the sums, so it belongs to what makes the samples.
                made_by = {**audio.made_by, "device": self.device, "threads": torch.get_num_threads()}
                path = self.out if file else _free(self.out / f"{slug(prompt)}-{seed}.wav", self.overwrite, taken)
                taken.add(path)
                audio = dataclasses.replace(audio, made_by=made_by)
                audio.save(path)
                if self.png:
                    from audiogen.signal.picture import save_spectrogram

                    mono = audio.samples.mean(dim=0)
                    save_spectrogram(mono, path.with_suffix(".png"), format=engine.mel, title=describe(prompt))
                print(f"{path}  {describe(prompt)}  seed {seed}  {audio.seconds:.2f} s"
                      f"  {audio.seconds / took:.1f} x real time", flush=True)
        return 0

    def _check(self) -> None:
        if self.count < 1:
            raise UserError(f"--count {self.count}: ask for at least one clip")
        if self.seed is not None and not 0 <= self.seed < 2**63 - self.count:
            raise UserError(f"--seed {self.seed}: choose 0 or more, below 2^63")
        if self.steps is not None and not 1 <= self.steps <= 10_000:
            raise UserError(f"--steps {self.steps}: choose 1 to 10000")
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise UserError(f"--guidance {self.guidance}: choose a number such as 2.5")

    def _prompts(self) -> list:
        """What the options ask for, as `Prompt`s; an option that is given wins over the field of a prompt file."""
        from audiogen.conditioning.prompts import check_bpm, check_key, check_metre, read_prompt_file
        from audiogen.core.interfaces import Prompt
        from audiogen.core.score import Score
        from audiogen.pipeline import check_seconds

        fields = {
            "seconds": None if self.seconds is None else check_seconds(self.seconds),
            "styles": tuple(parse_style(word) for word in self.style) or None,
            "negative": self.negative,
            "bpm": None if self.bpm is None else check_bpm(self.bpm),
            "key": None if self.key is None else check_key(self.key),
            "metre": None if self.metre is None else check_metre(self.metre),
            "score": None if self.score is None else Score.read(self.score),
        }
        given = {name: value for name, value in fields.items() if value is not None}
        prompts = [Prompt(text=text.strip()) for text in self.text]
        if self.prompts is not None:
            prompts += read_prompt_file(self.prompts)
        if not prompts and ("styles" in given or "score" in given):
            prompts = [Prompt()]
        prompts = [dataclasses.replace(prompt, **given) for prompt in prompts]
        if not prompts or not all(prompt.text or prompt.styles or prompt.score for prompt in prompts):
            raise UserError('nothing to make: write a prompt, such as audiogen generate "slow felt piano"')
        for prompt in prompts:
            check_seconds(prompt.seconds)
        return prompts


def load_engine(checkpoint: str | None, *, vocoder: str | None = None, device: str = "cpu", threads: int | None = None):
    """The engine on a device that is there. torch is loaded here and no sooner."""
    from audiogen.pipeline import Engine

    use_device(device, threads)
    return Engine.from_pretrained(checkpoint, vocoder=vocoder, device=device)


def use_device(device: str, threads: int | None) -> None:
    """Set the number of CPU threads, and refuse a device that is not there."""
    import torch

    if threads is not None:
        if threads < 1:
            raise UserError(f"--threads {threads}: choose at least 1")
        torch.set_num_threads(threads)
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise UserError(f"--device {device!r} is unknown; choose cpu or cuda") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {device}: this torch ({torch.__version__}) sees no CUDA device; use --device cpu")


def parse_style(word: str) -> tuple[str, float]:
    """ "grand piano:0.7" -> ("grand piano", 0.7); without a weight, 1."""
    name, colon, weight = word.rpartition(":")
    if not colon:
        name, weight = word, "1"
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not name.strip() or not 0 < value < math.inf:
        raise UserError(f"--style {word!r}: write a name and a positive weight, such as cello:0.3")
    return name.strip(), value


def slug(prompt) -> str:
    """A file name from a prompt: "Slow felt-piano, café!" -> "slow-felt-piano-cafe"; letters of any script stay."""
    text = prompt.text or " ".join(name for name, _ in prompt.styles) or (prompt.score.title if prompt.score else "")
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    words: Iterable[str] = re.findall(r"[^\W_]+", unicodedata.normalize("NFC", plain))
    name = ""
    for word in words:
        if name and len(name) + len(word) >= 48:
            break
        name += ("-" if name else "") + word[:48]
    return name or "clip"


def describe(prompt) -> str:
    """The prompt in one line, for a person."""
    parts = [f'"{prompt.text}"'] if prompt.text else []
    parts += [f"{name}:{weight:g}" for name, weight in prompt.styles]
    if prompt.score is not None and not parts:
        parts.append(prompt.score.title or "a score")
    return " ".join(parts)


def _is_file(out: Path) -> bool:
    """Whether -o names a file: by its suffix, where no folder of that name is there."""
    if out.is_dir():
        return False
    suffix = out.suffix.lower()
    if suffix in OTHER_SUFFIXES:
        raise UserError(f"{out}: clips are written as {', '.join(AUDIO_SUFFIXES)}")
    return suffix in AUDIO_SUFFIXES


def _free(path: Path, overwrite: bool, taken: set[Path]) -> Path:
    """`path`, or the first of path-2, path-3, ... that is not there yet."""
    return next(p for p in _numbered(path) if p not in taken and (overwrite or not p.exists()))


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
