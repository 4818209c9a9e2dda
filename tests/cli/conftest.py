"""An engine that needs no checkpoint, and a way to call the command as a person does."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
import torch

from audiogen import pipeline
from audiogen.cli import main
from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.core.mel_format import MelFormat


@dataclass
class FakeEngine:
    """Makes noise that depends on prompt and seed as a real engine's clips do, and notes what it was asked for."""

    hashes: dict[str, str] = field(default_factory=lambda: {"generator": "aaaaaaaaaaaa", "vocoder": "bbbbbbbbbbbb"})
    asked: list[tuple[Prompt, dict[str, Any]]] = field(default_factory=list)
    loaded: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)
    mel = MelFormat()

    def generate(self, prompt: Prompt, *, seed: int, **sampling: Any) -> Audio:
        self.asked.append((prompt, {"seed": seed, **sampling}))
        if prompt.text == "gibberish":
            warnings.warn("nothing in 'gibberish' is known to this model", stacklevel=2)
        values = asdict(prompt) | {"styles": [list(pair) for pair in prompt.styles]}
        made_by = {"audiogen": "0.1.0", "prompt": values, "seed": seed, "sampling": sampling,
                   "checkpoint": self.hashes, "torch": torch.__version__}
        source = torch.Generator().manual_seed(seed * 1000 + len(prompt.text))
        samples = torch.rand(1, round(prompt.seconds * 8000), generator=source) - 0.5
        return Audio(samples, 8000, made_by)

    def again(self, made_by: dict[str, Any]) -> Audio:
        if made_by["checkpoint"] != self.hashes:
            raise UserError(f"made by {made_by['checkpoint']}, this is {self.hashes}: name the folder by --checkpoint")
        values = made_by["prompt"]
        prompt = Prompt(**(values | {"styles": tuple(tuple(pair) for pair in values["styles"])}))
        return self.generate(prompt, seed=made_by["seed"], **made_by["sampling"])

    def vocode(self, sound: Any) -> Audio:
        self.asked.append((sound, {}))
        return sound if isinstance(sound, Audio) else Audio(torch.zeros(1, sound.shape[-1] * 256), 22050)


@pytest.fixture
def engine(monkeypatch) -> FakeEngine:
    fake = FakeEngine()

    def from_pretrained(checkpoint=None, **options):
        fake.loaded.append((checkpoint, options))
        return fake

    monkeypatch.setattr(pipeline.Engine, "from_pretrained", from_pretrained)
    monkeypatch.setattr(pipeline.Voice, "from_pretrained", from_pretrained)
    return fake


@dataclass
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def audiogen(capsys, monkeypatch, tmp_path):
    """audiogen("generate", "rain") -> exit code, stdout, stderr; run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def call(*words: Any) -> Said:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Said(code, said.out, said.err)

    yield call
    torch.set_num_threads(threads)
