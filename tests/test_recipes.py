"""Every recipe tells its options, and the lines in its docstring are lines that it understands."""

from __future__ import annotations

import ast
import dataclasses
import json
import shlex
import shutil
import subprocess
import sys

import pytest

from audiogen.cli import parse_recipe
from audiogen.cli.train import load_recipe, recipes
from audiogen.core.checkpoint import load_checkpoint
from audiogen.core.errors import UserError
from audiogen.core.registry import table

NAMES = list(recipes())
PROGRAMS = sorted(
    path for path in next(iter(recipes().values())).parent.glob("*.py") if path.stem not in (*NAMES, "__init__")
)


def lines(name: str) -> list[list[str]]:
    """The options of each command in the recipe's docstring that calls the recipe itself."""
    found = []
    text = ast.get_docstring(ast.parse(recipes()[name].read_text(encoding="utf-8"))).replace("\\\n", " ")
    for line in text.splitlines():
        line = line.strip().partition("    ")[0].removeprefix("Smoke:").strip().strip("`")
        for start in (f"audiogen train {name}", f"accelerate launch recipes/{name}.py", f"python recipes/{name}.py"):
            if line.startswith(start):
                found.append(shlex.split(line.removeprefix(start), comments=True))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_help_names_what_it_makes_and_its_options(name, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_recipe(load_recipe(name), ["--help"], prog=name)
    said = capsys.readouterr().out
    assert caught.value.code == 0 and "options" in said
    assert ast.get_docstring(ast.parse(recipes()[name].read_text(encoding="utf-8"))).splitlines()[0] in said


@pytest.mark.parametrize("name", NAMES)
def test_its_docstring_has_a_launch_line_and_all_its_lines_parse(name):
    found = lines(name)
    assert found, "the docstring of a recipe shows how it is called"
    for words in found:
        recipe = parse_recipe(load_recipe(name), words, prog=name)
        assert callable(recipe.run)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_programs_that_make_data_tell_their_options_and_how_they_are_run(path):
    """Such a program may need an environment of its own, so it runs by itself, and its lines are checked there."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert f"python recipes/{path.name}" in docstring and "Smoke" in docstring
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, cwd=path.parents[1],
                          env={"PYTHONPATH": str(path.parents[1]), "PATH": "/usr/bin:/bin", "COLUMNS": "100"})
    assert done.returncode == 0, done.stderr
    options = {word.rstrip(",").partition("=")[0] for word in done.stdout.split() if word.startswith("--")}
    for line in docstring.splitlines():
        if f"recipes/{path.name}" in line:
            assert {word for word in line.split() if word.startswith("--")} <= options, line


# ------------------------------------------------------------------------- the vocoder recipe, over its table

RATE = 22050


def vocoder(*words):
    return parse_recipe(load_recipe("vocoder"), [str(word) for word in words], prog="vocoder")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Four decaying tones of 1.2 s."""
    import numpy as np
    import soundfile

    folder = tmp_path_factory.mktemp("sounds")
    time = np.arange(int(1.2 * RATE)) / RATE
    for number in range(4):
        tone = 0.5 * np.sin(2 * np.pi * 220 * (number + 1) * time) * np.exp(-2 * time)
        soundfile.write(folder / f"tone_{number}.wav", tone, RATE)
    return folder


def tiny(family: str) -> list[str]:
    """Options that thin a family's layers out, where it has fields of these names."""
    thin = {"channels": 16, "hidden": 24, "skip_channels": 16, "gate_channels": 16, "frame_channels": 16,
            "frame_layers": 1, "iterations": 1, "refine": 1, "layers": 2, "stacks": 1, "cycle": 2}
    if family == "melgan":
        del thin["stacks"]
    known = {field.name for field in dataclasses.fields(vocoder("--preset", family).model)}
    return [word for name, value in thin.items() if name in known for word in (f"--model.{name}", str(value))]


SHORT = ["--train.steps", 3, "--train.batch-size", 2, "--train.accumulation", 2, "--losses.start", 1,
         "--losses.magnitude-steps", 1, "--losses.discriminator.channels", 2, "--demos", 0, "--scored", 0,
         "--train.save-every", 1, "--train.log-every", 1]


@pytest.mark.parametrize("family", [name for name in table("vocoder") if name != "griffin_lim"])
def test_every_vocoder_trains_from_a_folder_and_goes_on(family, sounds, tmp_path, capsys):
    words = ["--preset", family, "--data.folder", sounds, "--train.run", tmp_path / "run", *SHORT, *tiny(family)]
    assert vocoder(*words).run() == 0
    made = load_checkpoint(tmp_path / "run" / "model", room="vocoder")
    assert made.name == family and made.labels["preset"] == family
    assert all(value.isfinite().all() for value in made.model.state_dict().values() if value.is_floating_point())
    shutil.rmtree(tmp_path / "run" / "states" / "step_00000003")  # as if it had been stopped after two steps
    assert vocoder(*words).run() == 0
    again = load_checkpoint(tmp_path / "run" / "model", room="vocoder")
    assert again.hash == made.hash and "resuming" in capsys.readouterr().out


def test_at_the_end_held_out_clips_are_scored_and_the_run_can_be_tuned_on_a_generators_mels(sounds, tmp_path):
    import numpy as np

    from audiogen.core.audio import Audio
    from audiogen.signal.mel import MelSpectrogram

    run = tmp_path / "run"
    words = ["--preset", "vocos", "--data.folder", sounds, "--train.run", run, *SHORT, "--scored", 1, *tiny("vocos")]
    vocoder(*words).run()
    scores = json.loads((run / "model" / "scores.json").read_text())
    found = scores["copy_synthesis"]
    assert scores["step"] == 3 and found["clips"] == 1 and found["real_time"] > 0
    assert {"mr_stft", "mel_l1", "mcd", "voicing_error", "periodicity_rmse"} <= set(found["scores"])

    tuned = ["--init", run / "model", "--data.folder", sounds, "--data.mels", tmp_path / "mels", "--train.run",
             tmp_path / "tuned", *SHORT]
    recipe = vocoder(*tuned)
    assert type(recipe.model).__name__ == "VocosConfig" and recipe.model.channels == 16  # the checkpoint's own
    mel = MelSpectrogram(recipe.model.mel)
    (tmp_path / "mels").mkdir()
    for path in sounds.glob("*.wav"):
        np.save(tmp_path / "mels" / f"{path.stem}.npy", mel(Audio.read(path).samples[None])[0].numpy())
    assert recipe.run() == 0
    assert load_checkpoint(tmp_path / "tuned" / "model").hash != load_checkpoint(run / "model").hash


def test_every_preset_has_fields_of_its_family_and_fits_its_segment(capsys):
    from recipes.vocoder import presets

    known = presets()
    assert {"hifigan_v1", "vocos", "parallel_wavegan"} <= set(known)
    for name, (_, config) in known.items():
        recipe = load_recipe("vocoder").specialise(["--preset", name])()
        assert recipe.model == config and recipe.train.run.name == name
        assert recipe.data.frames >= 2 * (getattr(config, "context_frames", None) or 0) + 1
    assert vocoder("--preset=hifigan_v1").losses.discriminator.kinds == ("multi_period", "multi_scale")
    assert vocoder("--preset", "bigvgan_v2_24k_100band_256x").losses.multi_scale_mel == 15.0
    with pytest.raises(SystemExit):
        vocoder("--preset", "vocos", "--help")
    said = capsys.readouterr().out
    assert "--model.hidden" in said and "--model.excitation" not in said and "hifigan_v1" in said


@pytest.mark.parametrize(
    "words, said",
    [(["--preset", "hifigen_v1"], "did you mean 'hifigan_v1'"), (["--preset", "griffin_lim"], "no preset"),
     (["--preset", "vocos", "--model.widht", "3"], "has no option --model.widht")],
)
def test_a_wrong_preset_or_field_is_one_clear_line(words, said):
    with pytest.raises(UserError, match=said):
        vocoder(*words)


def test_what_cannot_work_is_said_before_the_first_step(sounds, tmp_path):
    base = ["--preset", "vocos", "--train.run", tmp_path / "run", *SHORT, *tiny("vocos")]
    folder = ["--data.folder", sounds]
    for words, said in [
        (base, "name what to train on"),
        ([*base, *folder, "--data.frames", "2"], "take --data.frames"),
        ([*base, *folder, "--model.mel.sample-rate", "44100"], "the highest rate is 22050 Hz"),
        ([*base, *folder, "--init", tmp_path / "none"], "no checkpoint folder"),
        ([*base, *folder, "--data.mels", tmp_path / "none"], "no folder of mels"),
    ]:
        with pytest.raises(UserError, match=said):
            vocoder(*words).run()
    assert not (tmp_path / "run" / "states").exists()


def test_a_published_file_is_tuned_with_the_config_beside_it(sounds, tmp_path):
    """HiFi-GAN's layout: {"generator": state} and config.json."""
    import torch

    from vocoders.hifigan import HiFiGAN, HiFiGANConfig

    torch.manual_seed(0)
    model = HiFiGAN(HiFiGANConfig(channels=16))
    torch.save({"generator": model.state_dict()}, tmp_path / "g_00000001")
    (tmp_path / "config.json").write_text(json.dumps({
        "resblock": "1", "upsample_rates": [8, 8, 2, 2], "upsample_kernel_sizes": [16, 16, 4, 4],
        "upsample_initial_channel": 16, "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]], "num_mels": 80, "n_fft": 1024, "hop_size": 256,
        "win_size": 1024, "sampling_rate": 22050, "fmin": 0, "fmax": 8000,
    }))
    file, run = tmp_path / "g_00000001", tmp_path / "run"
    recipe = vocoder("--init", file, "--data.folder", sounds, "--train.run", run, *SHORT)
    assert recipe.model.channels == 16 and recipe.model.mel.f_max == 8000.0 and recipe.losses.start == 1
    assert recipe.run() == 0
    tuned = load_checkpoint(run / "model", room="vocoder")
    assert tuned.name == "hifigan" and not torch.equal(tuned.model.conv_pre.weight, model.conv_pre.weight)
    assert (tuned.model.conv_pre.weight - model.conv_pre.weight).abs().max() < 0.05  # went on from there
