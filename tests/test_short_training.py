"""Short trainings of equal cost: as many steps as fit, first stages first, nothing that is there is trained again."""

from __future__ import annotations

from pathlib import Path

import pytest

from audiogen.core.errors import UserError
from benchmarks import short_training
from benchmarks.short_training import Row, ShortTraining

ROWS = {"vae": Row(), "latent": Row("latent_diffusion", after="--first vae"),
        "fast": Row(after="--init latent", words=("--distill", "4"), share=0.5)}
SECONDS = {"vae": 0.5, "latent_diffusion": 2.0, None: 1.0}  # of a step; the start of each training takes 7


@pytest.fixture
def said(monkeypatch):
    """What was run, in place of running it."""
    commands = []

    def run(words, log):
        options = dict(zip(words, words[1:], strict=False))
        commands.append(options)
        path = Path(options["--train.run"]) / "model" / "config.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return 7 + SECONDS[options.get("--preset")] * int(options["--train.steps"])

    monkeypatch.setattr(short_training, "_run", run)
    return commands


def test_as_many_steps_as_fit_and_first_stages_first(said, tmp_path):
    training = ShortTraining("generator", ROWS, tmp_path, minutes=2.0, data=("--data.manifest", "m.jsonl"))
    training.train("fast")
    runs = [options for options in said if options["--train.run"].startswith(str(tmp_path))]
    assert [Path(options["--train.run"]).name for options in runs] == ["vae", "latent", "fast"]
    assert [int(options["--train.steps"]) for options in runs] == [240, 60, 60]
    assert runs[1]["--first"] == str(tmp_path / "vae" / "model") and runs[1]["--data.manifest"] == "m.jsonl"
    assert runs[2]["--init"] == str(tmp_path / "latent" / "model") and "--preset" not in runs[2]
    said.clear()
    training.train("latent")
    assert said == []
    with pytest.raises(UserError, match="slow: unknown; choose from vae, latent, fast"):
        training.train("slow")


def test_a_training_that_fails_names_its_log(tmp_path):
    with pytest.raises(UserError, match=r"ended with 2: see .*x\.log"):
        short_training._run(["sh", "-c", "exit 2"], tmp_path / "x.log")
