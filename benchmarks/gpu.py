"""Prepared GPU work: everything that a borrowed GPU machine without network and without this project's data needs.

The machine gets the working tree and one ignored folder, `gpu_pack/`; a few files below $OUT come back. So everything
is packed beforehand on the machine that has the data, and its time is spent on training.

Before (here, 10 to 20 minutes on one core; again whenever data or weights have changed):

    python benchmarks/gpu.py pack --rendered rendered.jsonl --vocoder-data rendered.jsonl music.jsonl \\
        --init-generator runs/generator/model --init-vocoder runs/vocoder/model

    gpu_pack/wheels      packages that the machine lacks, for Python 3.12 on Linux x86-64
    gpu_pack/generator   all log-mels of the train and valid split as 8-bit differences (no audio to decode), MIDI files
    gpu_pack/vocoder     train and valid clips as Ogg Vorbis, with their manifest
    gpu_pack/init        weights to begin with, stored as 16-bit floats (where none: what is shipped, else from scratch)
    gpu_pack/state       with --state: a training state to resume, 16-bit, in parts
    gpu_pack/PACK.json   size and SHA-256 of every file

The tree and what is carried have to stay under 64 MiB together; `pack` prints the sum. Where it is too much, carry
gpu_pack/generator in one call and gpu_pack/vocoder in the next: folders that are there already stay there.

On the GPU machine, one command of at most 10 minutes (leave a minute and a half for the start and the end):

    python3 benchmarks/gpu.py all --minutes 8           # setup, kernels, then both trainings share what is left
    python3 benchmarks/gpu.py setup && python3 benchmarks/gpu.py train-generator --minutes 8       # or one by one
    python3 benchmarks/gpu.py train-vocoder --minutes 8 -- --losses.refine 2       # after --: options of the recipe

Every training measures its own speed first, so that the cosine schedule ends with the minutes; scores the weights
before and after on the valid split with the same noise; and delivers NAME.json (scores) and, where the new weights
are better, NAME.tar (a checkpoint folder, 16-bit floats, in parts where it is over 15.5 MiB) to $OUT.

After (here):

    python benchmarks/gpu.py unpack FOLDER_OF_WHAT_CAME_BACK/generator.tar runs/from_gpu          # joins parts too

Then put runs/from_gpu/generator in the place of the shipped folder, write its card, and run benchmarks/prompts.py.
The next time goes on from there: `pack --init-generator runs/from_gpu/generator`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import torch  # noqa: E402
from gpu_data import (  # noqa: E402
    ROOT,
    WHEELS,
    PackedMels,
    download_wheels,
    export,
    join_file,
    pack_clips,
    pack_mels,
    pack_state,
    report,
    resume_state,
    sha256,
    split_file,
)
from torch import nn  # noqa: E402

from audiogen.core.checkpoint import load_checkpoint, read_config  # noqa: E402
from audiogen.core.errors import UserError  # noqa: E402
from audiogen.core.interfaces import Condition  # noqa: E402
from audiogen.core.rng import SampleRng  # noqa: E402

MODULES = {"docstring-parser": "docstring_parser"}  # where the import has another name than the package
SHIPPED = ROOT / "audiogen" / "pretrained" / "default"


# ---------------------------------------------------------------------- pack


def pack(options: argparse.Namespace) -> int:
    """Write gpu_pack/; parts that are not asked for stay as they are."""
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    if options.wheels:
        download_wheels(out / "wheels")
    if options.rendered:
        pack_mels(options.rendered, out / "generator", step=options.step)
    if options.vocoder_data:
        pack_clips(options.vocoder_data, out / "vocoder", mebibytes=options.vocoder_mebibytes, quality=options.quality)
    for name in ("generator", "vocoder"):
        if folder := getattr(options, f"init_{name}"):
            export(load_checkpoint(folder, room=name), out / "init" / name, scores={})
    if options.state:
        pack_state(options.state, out / "state")
    return report(out)


# ---------------------------------------------------------------------- on the GPU machine


def setup(options: argparse.Namespace) -> int:
    """Install what is missing, from the pack alone; check the pack; print versions."""
    import importlib.metadata
    import importlib.util

    listed = json.loads((options.pack / "PACK.json").read_text()) if (options.pack / "PACK.json").is_file() else {}
    there = {name: values for name, values in listed.items() if (options.pack / name).is_file()}
    damaged = [name for name, values in there.items() if sha256(options.pack / name) != values["sha256"]]
    if damaged:
        raise UserError(f"{options.pack} is damaged: {', '.join(damaged[:5])}; carry it again")
    missing = [name for name in WHEELS if importlib.util.find_spec(MODULES.get(name, name)) is None]
    if missing:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile",
                   "--find-links", str(options.pack / "wheels"), *missing]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:  # a system Python that pip does not write to unless told so
            done = subprocess.run([*command, "--break-system-packages"], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"pip cannot install {' '.join(missing)}: {done.stderr.strip().splitlines()[-1]}")
        importlib.invalidate_caches()
    print(f"{len(there)} of {len(listed)} files of {options.pack} are here and whole; installed {missing or 'nothing'}")
    for name in ("torch", "torchaudio", "accelerate", "numpy", *WHEELS):
        try:
            print(f"  {name} {importlib.metadata.version(name)}", end="")
        except importlib.metadata.PackageNotFoundError:
            print(f"  {name} MISSING", end="")
    print(f"\n  Python {sys.version.split()[0]}, {os.cpu_count()} cores, device {device_name()}")
    return 0


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"


@torch.no_grad()
def generator_losses(model: nn.Module, dataset: PackedMels, *, samples: int = 512) -> dict[str, float]:
    """Mean losses over fixed samples with fixed noise: the same question to every model."""
    model = model.to(device()).eval()
    sums: dict[str, float] = {}
    for first in range(0, samples, 32):
        batch = dataset.collate(range(first, min(first + 32, samples)))
        moved = batch._replace(
            mel=batch.mel.to(device()), lengths=batch.lengths.to(device()),
            condition=Condition(*(part.to(device()) if part is not None else None for part in batch.condition)),
        )
        for name, value in model.loss(moved, SampleRng(0, step=0, ids=batch.ids, stream="score")).items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(batch.ids)
    return {name: round(value / samples, 5) for name, value in sums.items()}


def train_generator(options: argparse.Namespace) -> int:
    """The recipe generator on packed mels."""
    from audiogen.cli import parse_recipe
    from audiogen.cli.train import load_recipe
    from audiogen.conditioning.labels import StyleVocabulary
    from audiogen.conditioning.text import WordVectors
    from audiogen.core.registry import resolve
    from audiogen.training.fit import fit
    from recipes.generator import presets

    began, run = time.monotonic(), fresh(options.run / "generator")
    recipe = parse_recipe(load_recipe("generator"), options.recipe, prog="gpu.py train-generator --")
    words = WordVectors.load(recipe.words or SHIPPED / "words.safetensors")
    start = beginning(options, "generator")
    labels, config, vocabulary = {}, recipe.model, None
    if start is not None:
        labels, config = dict(read_config(start).get("labels", {})), load_checkpoint(start).model.config
        vocabulary = StyleVocabulary.from_dict(labels["vocabulary"], words) if "vocabulary" in labels else None
    frames = recipe.data.frames
    folder = options.pack / "generator"
    styles = vocabulary.names if vocabulary else recipe.data.styles or None
    train = PackedMels(folder, split="train", frames=frames, styles=styles)
    if vocabulary is None:
        if start is not None:
            print(f"{start} has no vocabulary of styles, so its weights mean nothing here: from scratch", flush=True)
        vocabulary = StyleVocabulary(train.styles, words)
        config = replace(config, vector_dim=vocabulary.dim)
        start = None
    valid = PackedMels(folder, split="valid", frames=frames, styles=vocabulary.names, seed=1)
    config.mel.require(train.mel, mine="the model", theirs=f"the packed mels in {folder}")
    train.set_vocabulary(vocabulary)
    valid.set_vocabulary(vocabulary)
    print(f"{train.seconds / 60:.1f} minutes in memory after {time.monotonic() - began:.0f} s", flush=True)

    torch.manual_seed(0)
    cls = resolve("generator", presets()[recipe.preset][0])
    model = cls(config)
    model.set_statistics(*train.statistics())
    if start is not None:
        model = load_checkpoint(start, room="generator").model.train()
    before = generator_losses(model, valid, samples=options.samples) if start is not None else None
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    settings = replace(
        recipe.train, run=run / "trial", batch_size=options.batch_size, workers=options.workers, seed=options.seed,
        precision=options.precision, log_every=20, save_every=10**9, demo_every=10**9, warmup=100,
    )
    task = cls.task_type(model.to(device()).train())
    if options.compile:
        for network in model.children():
            network.compile()
    steps = options.steps or steps_in(options, began, lambda config: fit(task, train, config, collate=train.collate),
                                      settings)
    model.load_state_dict(weights)
    resumed = 0
    if (options.pack / "state" / "state.json").is_file():
        resumed = resume_state(options.pack / "state", run / "run")
    labels |= {
        "vocabulary": vocabulary.to_dict(), "recipe": "generator", "minutes": round(train.seconds / 60, 1),
        "played": sorted({s for e in train.entries if e["score"] for s in e["styles"] if s in vocabulary.names}),
    }
    settings = replace(settings, run=run / "run", steps=resumed + steps, log_every=max(1, min(100, steps // 10)),
                       warmup=min(100, steps // 10 + 1), minutes=left(options, began))
    fit(task, train, settings, collate=train.collate, recipe=replace(recipe, train=settings), labels=labels)
    loaded = load_checkpoint(run / "run" / "model", room="generator")
    export(loaded, run / "generator", scores={})
    after = generator_losses(load_checkpoint(run / "generator").model, valid, samples=options.samples)
    return deliver(options, run, "generator", before, after, began, batch=options.batch_size)


@torch.no_grad()
def vocoder_losses(model: nn.Module, folder: Path, *, frames: int, samples: int) -> dict[str, float]:
    """Spectral losses of the rendered valid clips, each from its own mel with fixed noise."""
    from audiogen.data.segments import SegmentDataset, collate
    from audiogen.signal.mel import MelSpectrogram
    from vocoders.gan import GANConfig, SpectralLoss

    mel, weights = model.config.mel, GANConfig()
    dataset = SegmentDataset(folder / "manifest.jsonl", mel, frames=frames, split="valid", seed=1)
    model, front_end, spectral = (part.to(device()).eval() for part in (model, MelSpectrogram(mel), SpectralLoss(mel)))
    sums = {"stft": 0.0, "mel": 0.0}
    for k in range(samples):
        audio = collate([dataset[k]]).audio.to(device())
        losses = spectral(model(front_end(audio), rng=SampleRng(0, ids=[k])), audio)
        sums = {name: sums[name] + float(losses[name]) / samples for name in sums}
    return {"loss": round(weights.stft * sums["stft"] + weights.mel * sums["mel"], 5),
            **{name: round(value, 5) for name, value in sums.items()}}


def train_vocoder(options: argparse.Namespace) -> int:
    """The recipe vocoder on packed clips."""
    from audiogen.cli import parse_recipe
    from audiogen.cli.train import load_recipe

    began, run = time.monotonic(), fresh(options.run / "vocoder")
    recipe = parse_recipe(load_recipe("vocoder"), options.recipe, prog="gpu.py train-vocoder --")
    folder = options.pack / "vocoder"
    start = beginning(options, "vocoder")
    model = load_checkpoint(start, room="vocoder").model if start is not None else None
    before = vocoder_losses(model, folder, frames=128, samples=options.samples) if model is not None else None
    settings = replace(
        recipe.train, run=run / "trial", batch_size=options.batch_size, workers=options.workers, seed=options.seed,
        precision=options.precision, log_every=20, save_every=10**9, demo_every=10**9,
    )
    recipe = replace(
        recipe, data=replace(recipe.data, manifests=(folder / "manifest.jsonl",)), init=start, demos=0,
        model=model.config if model is not None else recipe.model,
    )
    # The trial plays both players from the first step, which is what most of the run will cost.
    everything = replace(recipe.losses, magnitude_steps=0, start=0)
    steps = options.steps or steps_in(
        options, began, lambda config: replace(recipe, losses=everything, train=config).run(), settings
    )
    opening = 0 if model is not None else steps // 4
    losses = replace(recipe.losses, magnitude_steps=opening, start=opening + steps // 8)
    settings = replace(settings, run=run / "run", steps=steps, log_every=max(1, min(100, steps // 10)),
                       warmup=min(200, steps // 10 + 1), minutes=left(options, began))
    replace(recipe, losses=losses, train=settings).run()
    loaded = load_checkpoint(run / "run" / "model", room="vocoder")
    export(loaded, run / "vocoder", scores={})
    after = vocoder_losses(load_checkpoint(run / "vocoder").model, folder, frames=128, samples=options.samples)
    return deliver(options, run, "vocoder", before, after, began, batch=options.batch_size)


def fresh(run: Path) -> Path:
    """An empty folder for a run: what an earlier call left behind would be resumed."""
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    torch.set_float32_matmul_precision("high")
    return run


def beginning(options: argparse.Namespace, name: str) -> Path | None:
    """The checkpoint to begin with: the packed one, else the shipped one, else none."""
    for folder in (options.pack / "init" / name, SHIPPED / name):
        if not options.scratch and (folder / "config.json").is_file():
            print(f"beginning with {folder}", flush=True)
            return folder
    print(f"no weights for the {name} to begin with: from scratch", flush=True)
    return None


def left(options: argparse.Namespace, began: float) -> float:
    """Minutes that are left for training, a quarter of a minute put aside for scores and files."""
    return max(0.05, options.minutes - (time.monotonic() - began) / 60 - min(0.25, options.minutes / 10))


def steps_in(options: argparse.Namespace, began: float, train, settings) -> int:
    """Steps that fit into what is left, by a short trial; its weights are thrown away."""
    trial = 40
    train(replace(settings, steps=trial))
    lines = (settings.run / "log.jsonl").read_text().splitlines()
    speed = json.loads(lines[-1])["steps_per_second"]
    steps = max(10, int(left(options, began) * 60 * speed * 0.95))
    print(f"trial: {speed:.2f} steps/s; {steps} steps in {left(options, began):.1f} minutes", flush=True)
    return steps


def deliver(options, run: Path, name: str, before: dict | None, after: dict, began: float, **facts) -> int:
    """NAME.json, and NAME.tar where the new weights are better, to the folder that comes back."""
    better = math.isfinite(after["loss"]) and (before is None or after["loss"] < before["loss"])
    lines = [json.loads(line) for line in (run / "run" / "log.jsonl").read_text().splitlines()]
    scores = {
        "valid before": before, "valid after": after, "kept": better, "last": lines[-1], "device": device_name(),
        "torch": torch.__version__, "minutes": round((time.monotonic() - began) / 60, 2), **facts,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(scores | {"log": lines[:: max(1, len(lines) // 50)]}, indent=1) + "\n"
    (options.out / f"{name}.json").write_text(text)
    said = f"valid loss {before['loss'] if before else 'none'} before, {after['loss']} after"
    if not (better or options.keep):
        print(f"{name}: {said}: NOT better, the old weights stay")
        return 0
    (run / name / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    target = options.out / f"{name}.tar"
    with tarfile.open(target, "w") as tar:
        tar.add(run / name, arcname=name)
    print(f"{name}: {said}: {'better' if better else 'not better, kept all the same'}; "
          + ", ".join(f"{part.name} {part.stat().st_size / 2**20:.1f} MiB" for part in split_file(target)))
    return 0


def unpack(options: argparse.Namespace) -> int:
    """Join and unpack what came back; load it once, to be sure."""
    options.to.mkdir(parents=True, exist_ok=True)
    whole = options.to / options.tar.name
    join_file(options.tar, whole)
    with tarfile.open(whole) as tar:
        tar.extractall(options.to, filter="data")
    whole.unlink()
    folder = options.to / options.tar.stem
    print(f"{folder}: {type(load_checkpoint(folder).model).__name__}, {(folder / 'scores.json').read_text()}")
    return 0


def kernels(options: argparse.Namespace) -> int:
    """Build the native operations, test them, on a GPU also under compute-sanitizer, and measure them.

    Logs and figures go to $OUT. A step that fails does not keep the next ones from running; the first failure is the
    result. On a GPU the build is for its own chip alone (a minute), and the tests are those marked "gpu". The measuring
    compares mma with wgmma and streams with tiles in one call; its JSON grows case by case.
    """
    if not (ROOT / "audiogen/ops/build.py").is_file():
        print("kernels: there is no audiogen/ops/build.py yet")
        return 0
    out, python = Path(os.environ.get("OUT") or "runs/gpu/out"), sys.executable
    out.mkdir(parents=True, exist_ok=True)
    steps: list[tuple[str, list[str]]] = [("build", [python, "-m", "audiogen.ops.build"])]
    environment = dict(os.environ)
    if torch.cuda.is_available():
        chip = "".join(map(str, torch.cuda.get_device_capability()))
        environment["AUDIOGEN_CUDA_ARCHITECTURES"] = f"{chip}a" if chip == "90" else chip
        tests = [python, "-m", "pytest", "-p", "no:cacheprovider", "-k", "gpu", *sorted(
            str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "ops").glob("test_cuda_*.py")
        )]
        steps.append(("test", tests))
        toolkit = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
        sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=f"{toolkit}/bin")
        # Generation spins on memory, which racecheck takes for a race; all else is checked by both tools.
        quick = [part for part in tests if "wavenet_generate" not in part]
        for tool, chosen in (("memcheck", tests), ("racecheck", quick)) if sanitizer else ():
            steps.append((tool, [str(sanitizer), "--tool", tool, "--error-exitcode", "9", *chosen]))
        if not sanitizer:
            print("kernels: no compute-sanitizer here")
        steps.append(("measure", [python, "benchmarks/kernels_cuda.py", "--out", str(out / "kernels_cuda.json")]))
    else:
        steps.append(("measure", [python, "benchmarks/kernels.py"]))
    first_failure = 0
    for name, command in steps:
        began = time.monotonic()
        with open(out / f"kernels_{name}.log", "w") as log:
            try:
                code = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT,
                                      timeout=400 if name == "measure" else 240).returncode
            except subprocess.TimeoutExpired:
                code = 124
        lines = (out / f"kernels_{name}.log").read_text(errors="replace").splitlines()
        print(f"kernels: {name}: code {code}, {time.monotonic() - began:.0f} s", *lines[-12:], sep="\n    ", flush=True)
        first_failure = first_failure or code
    return first_failure


def everything(options: argparse.Namespace) -> int:
    """Setup, kernels, and the trainings whose data is there, in what is left of --minutes."""
    began = time.monotonic()
    setup(options)
    if kernels(options):
        print("kernels failed; going on with the trainings", flush=True)
    trainings = {"generator": (train_generator, 128), "vocoder": (train_vocoder, 64)}
    wanted = [name for name in trainings if (options.pack / name).is_dir()]
    failed = 0
    for index, name in enumerate(wanted):
        minutes = (options.minutes - (time.monotonic() - began) / 60) / (len(wanted) - index)
        # A process of its own: packages that setup installed are found, memory is given back, a failure stays there.
        command = [sys.executable, str(Path(__file__).resolve()), f"train-{name}", "--minutes", f"{minutes:.2f}",
                   "--batch-size", str(options.batch_size or trainings[name][1])]
        for option in ("pack", "out", "run", "samples", "workers", "steps"):
            if getattr(options, option) is not None:
                command += [f"--{option}", str(getattr(options, option))]
        failed += subprocess.run(command).returncode != 0
    return int(failed > 0)


# ---------------------------------------------------------------------- the command line


def parser() -> argparse.ArgumentParser:
    # argparse, since tyro is among what `setup` installs.
    main_parser = argparse.ArgumentParser(
        prog="gpu.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = main_parser.add_subparsers(dest="verb", required=True)
    own = verbs.add_parser("pack", help="prepare gpu_pack/")
    own.set_defaults(call=pack)
    own.add_argument("--rendered", type=Path, help="manifest of the generator's clips")
    own.add_argument("--vocoder-data", type=Path, nargs="+", default=[], help="manifests of the vocoder's clips")
    own.add_argument("--vocoder-mebibytes", type=float, default=20.0)
    own.add_argument("--quality", type=float, default=0.6, help="of Ogg Vorbis, 0 to 1")
    own.add_argument("--step", type=float, default=0.08, help="of the packed mels, in natural log units")
    own.add_argument("--init-generator", type=Path)
    own.add_argument("--init-vocoder", type=Path)
    own.add_argument("--state", type=Path, help="a generator's run to resume, with its optimizer")
    own.add_argument("--no-wheels", dest="wheels", action="store_false")
    own.add_argument("--out", type=Path, default=Path("gpu_pack"))
    for verb, call, text in (
        ("setup", setup, "install what is missing"), ("kernels", kernels, "build, test and measure native operations"),
        ("train-generator", train_generator, "generator"), ("train-vocoder", train_vocoder, "vocoder"),
        ("all", everything, "everything in one time budget"),
    ):
        own = verbs.add_parser(verb, help=text)
        own.set_defaults(call=call)
        own.add_argument("--pack", type=Path, default=Path("gpu_pack"))
        if call in (setup, kernels):
            continue
        own.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "runs/gpu/out"))
        own.add_argument("--run", type=Path, default=Path("runs/gpu"), help="scratch; what is there is removed")
        own.add_argument("--minutes", type=float, default=8.0, help="of this call, all included")
        own.add_argument("--steps", type=int, help="of training; None: as many as fit into --minutes, by a trial")
        own.add_argument("--batch-size", type=int, default=None if call is everything else
                         128 if call is train_generator else 64)
        # One core makes 3000 packed segments a second, or 9000 of clips, so no processes are needed to keep up.
        own.add_argument("--workers", type=int, default=0, help="of the data loader")
        own.add_argument("--samples", type=int, default={train_generator: 512, train_vocoder: 128}.get(call),
                         help="of each score")
        own.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
        own.add_argument("--seed", type=int, default=1, help="another than the run before it had, for other noise")
        own.add_argument("--scratch", action="store_true", help="begin with no weights")
        own.add_argument("--compile", action="store_true", help="torch.compile the generator's networks")
        own.add_argument("--keep", action="store_true", help="deliver the weights even where they are not better")
    own = verbs.add_parser("unpack", help="a checkpoint folder out of what came back")
    own.set_defaults(call=unpack)
    own.add_argument("tar", type=Path)
    own.add_argument("to", type=Path)
    return main_parser


def main(words: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if words is None else words)
    cut = words.index("--") if "--" in words else len(words)
    options = parser().parse_args(words[:cut])
    options.recipe = words[cut + 1 :]
    try:
        return options.call(options)
    except UserError as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
