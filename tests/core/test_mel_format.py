from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch

from audiogen.core.config import from_dict, to_dict
from audiogen.core.errors import UserError
from audiogen.core.mel_format import MEL_ALIASES, MEL_FORMATS, MelFormat, mel_format


def test_equal_formats_have_equal_hashes_and_any_other_field_another_one():
    changed = {
        "sample_rate": 24000, "n_fft": 2048, "win_length": 800, "hop_length": 200, "n_mels": 100, "f_min": 20.0,
        "f_max": 8000.0, "mel_scale": "htk", "norm": None, "power": 2.0, "eps": 1e-9, "log": "log10", "floor": 1e-7,
        "padding": "center", "window": "lws", "normalized": True, "scale": 0.2, "shift": 0.8, "clip": (0.0, 1.0),
    }
    assert set(changed) == {field.name for field in dataclasses.fields(MelFormat)}, "a new field needs a line here"
    hashes = {dataclasses.replace(MelFormat(), **{name: value}).hash() for name, value in changed.items()}
    assert len(hashes | {MelFormat().hash()}) == len(changed) + 1
    assert MelFormat().hash() == MelFormat(**dataclasses.asdict(MelFormat())).hash()


@pytest.mark.parametrize("name, known", [
    ("audiogen_22k", "55c349a66981"), ("hifigan_22k", "4b88c7d11e6b"), ("bigvgan_24k_100band", "fbe358a55875"),
    ("bigvgan_44k_128band", "6530869c0f65"), ("melgan_22k", "88e3f9a7bb91"), ("tacotron2_22k", "f0a1517ca5f5"),
    ("vocos_24k", "62ac01511737"), ("parallel_wavegan_22k", "48edd1590df5"), ("parallel_wavegan_24k", "99af3fc83f2a"),
])
def test_hashes_that_are_written_in_checkpoints_stay_what_they_were(name, known):
    assert MEL_FORMATS[name].hash() == known


def test_a_format_written_before_a_field_came_is_still_read():
    written = {name: value for name, value in dataclasses.asdict(MelFormat()).items()
               if name not in ("window", "normalized", "scale", "shift", "clip")}
    assert from_dict(MelFormat, written) == MelFormat()


@pytest.mark.parametrize("name", [*MEL_FORMATS, *MEL_ALIASES])
def test_a_format_is_found_by_its_name_and_survives_json(name):
    format = mel_format(name)
    assert from_dict(MelFormat, json.loads(json.dumps(to_dict(format)))) == format


def test_an_unknown_name_is_told_its_neighbours():
    with pytest.raises(UserError, match="'vocos_22k'; did you mean vocos_24k"):
        mel_format("vocos_22k")


def test_hash_is_the_same_in_another_process():
    code = "from audiogen.core.mel_format import MelFormat; print(MelFormat().hash())"
    env = {**os.environ, "PYTHONHASHSEED": "12345"}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert there.stdout.strip() == MelFormat().hash()


@pytest.mark.parametrize("name", MEL_FORMATS)
def test_a_format_meets_itself_in_peace_and_every_other_preset_not(name):
    mine = MEL_FORMATS[name]
    mine.require(MEL_FORMATS[name], mine="the generator", theirs="the vocoder")
    for other, theirs in MEL_FORMATS.items():
        if other != name:
            with pytest.raises(UserError):
                mine.require(theirs, mine="the generator", theirs="the vocoder")


def test_two_formats_that_meet_name_all_fields_that_differ_and_no_other():
    theirs = MelFormat(sample_rate=24000, f_max=8000.0)
    with pytest.raises(UserError) as caught:
        MelFormat().require(theirs, mine="the generator", theirs="the vocoder at runs/v")
    message = str(caught.value)
    for part in ("the generator", "runs/v", "sample_rate 22050 against 24000", "f_max 11025.0 against 8000.0", "train"):
        assert part in message
    assert "hop_length" not in message and "\n" not in message
    assert MelFormat().differences(theirs) == {"sample_rate": (22050, 24000), "f_max": (11025.0, 8000.0)}


@pytest.mark.parametrize("fields", [
    {"sample_rate": 0}, {"hop_length": 0}, {"hop_length": 2048}, {"win_length": 2048}, {"f_min": -1.0},
    {"f_min": 9000.0, "f_max": 8000.0}, {"f_max": 12000.0}, {"mel_scale": "bark"}, {"norm": "l2"}, {"log": "log2"},
    {"padding": "valid"}, {"floor": 0.0}, {"n_mels": 0}, {"window": "hamming"}, {"scale": 0.0},
    {"clip": (1.0, 0.0)}, {"padding": "lws", "hop_length": 300},
])
def test_impossible_formats_are_refused_with_the_value(fields):
    with pytest.raises(UserError) as caught:
        MelFormat(**fields)
    name, value = list(fields.items())[-1]
    assert name in str(caught.value) and str(value) in str(caught.value)


@pytest.mark.parametrize("time", [1, 255, 256, 257, 5000])
def test_lws_frames_are_all_that_reach_into_the_clip(time):
    format = MelFormat(padding="lws")
    reaching = [start for start in range(-format.lead, time, 256) if start + 1024 > 0 and start < time]
    assert format.frames(time) == format.frames_to_cover(time) == len(reaching)
    assert format.frames(time) * 256 - format.lead >= time and MelFormat().lead == 0


@pytest.mark.parametrize("padding", ["same", "center"])
@pytest.mark.parametrize("time", [256, 1000, 22050])
def test_number_of_frames_is_that_of_framing_the_padded_signal(padding, time):
    format = MelFormat(padding=padding)
    pad = (format.n_fft - format.hop_length) // 2 if padding == "same" else format.n_fft // 2
    padded = time + 2 * pad
    starts = [start for start in range(0, padded - format.n_fft + 1, format.hop_length)]
    assert format.frames(time) == len(starts)
    assert format.frame_rate == pytest.approx(86.1328125)


@pytest.mark.parametrize("mel, said", [
    (torch.zeros(80, 5), ["Vocos", "(batch, 80, frames)", "(80, 5)"]),
    (torch.zeros(1, 100, 5), ["Vocos", "80 mel bands", "has 100", "22050 Hz"]),
    (torch.zeros(1, 5, 80), ["Vocos", "has 5", "transposed"]),
    (torch.zeros(1, 80, 0), ["Vocos", "no frames"]),
    (torch.zeros(0, 80, 5), ["Vocos", "no clips"]),
    (torch.full((2, 80, 3), float("nan")), ["Vocos", "480 of 480", "NaN"]),
])
def test_a_mel_that_cannot_be_rendered_is_refused_with_both_sides_in_one_line(mel, said):
    with pytest.raises(UserError) as caught:
        MelFormat().check(mel, model="Vocos")
    assert all(part in str(caught.value) for part in said) and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_found_where_it_is(value):
    mel = torch.zeros(2, 80, 7)
    MelFormat().check(mel, model="Vocos")
    mel[1, 30, 4] = value
    with pytest.raises(UserError, match="1 of 1120 .* clip 1, band 30, frame 4"):
        MelFormat().check(mel, model="Vocos")


def test_the_check_stays_out_of_a_captured_graph():
    class Model(torch.nn.Module):
        def forward(self, mel):
            MelFormat().check(mel, model="this")
            return mel + 1

    program = torch.export.export(Model(), (torch.zeros(1, 80, 5),))
    assert [node.target for node in program.graph.nodes if node.op == "call_function"] == [torch.ops.aten.add.Tensor]
