"""Exported vocoders render what ours do, at other lengths than they were recorded with, in torch and in onnxruntime."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from audiogen.core.checkpoint import save_checkpoint
from audiogen.core.errors import UserError
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from vocoders.diffwave import DiffWave, DiffWaveConfig
from vocoders.export import draws_of, inputs_for, save_onnx, save_program
from vocoders.griffin_lim import GriffinLim, GriffinLimConfig
from vocoders.hifigan import HiFiGAN, HiFiGANConfig
from vocoders.parallel_wavegan import ParallelWaveGAN, ParallelWaveGANConfig
from vocoders.vocos import Vocos, VocosConfig

FORMAT = MelFormat(n_fft=64, win_length=64, hop_length=16, n_mels=4)
HIFIGAN = {"mel": FORMAT, "channels": 8, "rates": (4, 4), "kernels": (8, 8), "block_kernels": (3,),
           "block_dilations": ((1,),)}
BUILD = {
    "vocos": lambda: Vocos(VocosConfig(FORMAT, channels=8, hidden=16, layers=1)),
    "hifigan": lambda: HiFiGAN(HiFiGANConfig(**HIFIGAN)),
    "bigvgan": lambda: HiFiGAN(HiFiGANConfig(**HIFIGAN, activation="snakebeta", final="clamp")),
    "diffwave": lambda: DiffWave(DiffWaveConfig(
        mel=FORMAT, channels=8, layers=2, cycle=2, upsample_scales=(4, 4), embedding=16, schedule=(1e-4, 0.5),
    )),
    "parallel_wavegan": lambda: ParallelWaveGAN(ParallelWaveGANConfig(
        mel=FORMAT, bands=1, channels=8, skip_channels=8, layers=2, stacks=1, frame_channels=0, upsample_scales=(4, 4),
        excitation="noise", iterations=0, refine=0,
    )),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return BUILD[name]().eval()


def clip(frames: int) -> torch.Tensor:
    return torch.randn(1, 4, frames, generator=torch.Generator().manual_seed(frames)) - 3


def expected(model: nn.Module, mel: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(mel, rng=SampleRng(5))


@pytest.mark.parametrize("name", ["bigvgan", "diffwave"])  # vocos: below, by the command
def test_a_program_is_the_model_at_any_length_and_knows_nothing_of_ours(tmp_path, name) -> None:
    model = build(name)
    save_program(model, tmp_path / "m.pt2")
    program = torch.export.load(tmp_path / "m.pt2")
    assert not any("audiogen" in str(node.target) for node in program.graph.nodes if node.op == "call_function")
    for frames in (5, 24, 61):
        made = program.module()(*inputs_for(model, clip(frames), SampleRng(5)))
        torch.testing.assert_close(made, expected(model, clip(frames)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["vocos", "hifigan", "parallel_wavegan"])
def test_onnxruntime_renders_what_torch_does(tmp_path, name) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [dev] brings it")
    pytest.importorskip("onnxscript", reason="the extra [export] brings it")
    model = build(name)
    save_onnx(model, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    assert names == ["mel", *(f"noise_{index}" for index in range(len(draws_of(model))))]
    assert [value.name for value in session.get_outputs()] == ["audio"]
    for frames in (5, 24, 61):
        inputs = inputs_for(model, clip(frames), SampleRng(5))
        made = session.run(None, {key: value.numpy() for key, value in zip(names, inputs, strict=True)})[0]
        torch.testing.assert_close(torch.from_numpy(made), expected(model, clip(frames)), rtol=0, atol=1e-5)


def test_noise_is_an_input_in_the_order_in_which_it_is_read() -> None:
    model = build("parallel_wavegan")
    (draw,) = draws_of(model)
    assert (draw.kind, draw.channels, draw.per_frame) == ("tape_randn", 1, 16)
    mel, noise = inputs_for(model, clip(9), SampleRng(5))
    assert torch.equal(noise, SampleRng(5).tape_randn(1, 0, 9 * 16))
    assert draws_of(build("vocos")) == ()


def test_what_is_no_graph_says_so_in_one_line(tmp_path) -> None:
    from vocoders.wavenet import WaveNet

    for model, said in ((GriffinLim(GriffinLimConfig(mel=FORMAT)), "griffin_lim iterates"),
                        (WaveNet(), "wavenet draws each sample")):
        with pytest.raises(UserError, match=said) as caught:
            save_program(model, tmp_path / "m.pt2")
        assert "\n" not in str(caught.value) and not (tmp_path / "m.pt2").exists()


def test_the_command_takes_a_checkpoint_and_chooses_by_the_suffix(tmp_path, monkeypatch, capsys) -> None:
    from audiogen.cli import main

    monkeypatch.chdir(tmp_path)
    model = build("vocos")
    save_checkpoint("engine/vocoder", model, room="vocoder")
    assert main(["export", "engine", "-o", "out.pt2"]) == 0
    assert "vocos" in capsys.readouterr().out
    made = torch.export.load("out.pt2").module()(clip(7))
    torch.testing.assert_close(made, expected(model, clip(7)), rtol=0, atol=1e-5)
    assert main(["export", "engine", "-o", "out.pt"]) == 2
    assert ".onnx or .pt2" in capsys.readouterr().err
