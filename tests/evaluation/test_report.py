"""`audiogen evaluate` from folders to result: rejects, floor and anchors, cache, and the order of degradations."""

from __future__ import annotations

import json
import math

import pytest
import soundfile
import torch

from audiogen.cli import main
from audiogen.core.audio import Audio
from audiogen.core.errors import UserError
from evaluation.anchors import ANCHORS
from evaluation.cache import EmbeddingCache
from evaluation.clips import cache_key, check_clips, embed_clips
from evaluation.embedders.base import load_embedder
from evaluation.frechet import frechet_distance
from evaluation.report import evaluate

RATE = 16000


def tune(seed, seconds=2.0, rate=RATE):
    """Decaying notes of a few overtones with a little noise: the same seed, the same tune."""
    source = torch.Generator().manual_seed(seed)
    clip = 0.002 * torch.randn(round(seconds * rate), generator=source)
    for start in torch.arange(0, seconds, 0.25).tolist():
        pitch = 110 * 2 ** (torch.randint(0, 30, (1,), generator=source).item() / 12)
        t = torch.arange(round(0.5 * rate)) / rate
        note = sum(torch.sin(2 * math.pi * pitch * k * t) / k for k in range(1, 12)) * torch.exp(-6 * t)
        at = round(start * rate)
        clip[at : at + len(note)] += 0.15 * note[: len(clip) - at]
    return clip.clamp(-1, 1)


def folder(path, seeds, change=lambda x: x, rate=RATE):
    for seed in seeds:
        Audio(change(tune(seed, rate=rate))[None], rate).save(path / f"clip {seed}.wav")
    return path


def score(reference, generated, **options):
    return evaluate(reference, generated, cache=None, health=False, **{"anchors": False, **options})["embedders"][0]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("real"), range(24))


def test_the_same_clips_score_zero_and_are_named_as_such(real):
    result = evaluate(real, real, cache=None, health=False, anchors=False)
    assert result["embedders"][0]["scores"]["frechet"]["value"] < 1e-9
    assert any("same files" in warning for warning in result["warnings"])


@pytest.mark.parametrize("changes", [
    [lambda x, s=snr: x + x.std() * 10 ** (-s / 20) * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
     for snr in (40, 25, 10, 0)],
    [lambda x, h=hertz: torch.fft.irfft(
        torch.fft.rfft(x) * (torch.fft.rfftfreq(len(x), 1 / RATE) < h), len(x)) for hertz in (6000, 3000, 1500, 700)],
    [lambda x, b=bits: torch.round(x * 2**b) / 2**b for bits in (10, 7, 5, 3)],
    [lambda x, g=gain: (g * x).clamp(-0.3, 0.3) for gain in (1.0, 2.0, 4.0, 16.0)],
], ids=["noise", "low-pass", "bit depth", "clipping"])
def test_more_damage_is_never_a_better_score(real, changes):
    embedder = load_embedder("melstats")

    def features(change):
        return embedder(torch.stack([change(tune(seed)) for seed in range(24)])).flatten(0, 1)

    reference = features(lambda x: x)
    distances = [frechet_distance(reference, features(change)) for change in changes]
    assert distances == sorted(distances) and distances[0] < 0.5 * distances[-1]


def test_floor_and_anchors_stand_in_order(real, tmp_path):
    other = folder(tmp_path, range(100, 124))
    metric = score(real, other, anchors=True)
    assert set(metric["anchors"]) == set(ANCHORS)
    for name in ("frechet", "kernel"):
        row, floor = metric["scores"][name], metric["floor"][name]
        values = {anchor: rows[name]["value"] for anchor, rows in metric["anchors"].items()}
        assert floor["value"] < values["reference below 3 kHz"]
        assert row["value"] < values["reference + noise at 20 dB"] < values["white noise"]
        low, high = row["interval_95"]
        assert low <= row["value"] <= high and row["se"] > 0
        assert (row["n_reference"], row["n_generated"]) == (24, 24)
        assert floor["n_reference"] + floor["n_generated"] == 24 and floor["n_reference"] > 4 < floor["n_generated"]


def test_bad_files_are_listed_and_change_no_other_clips_numbers(real, tmp_path):
    good = folder(tmp_path / "good", range(50, 58))
    bad = folder(tmp_path / "bad", range(50, 58))
    (bad / "text ü.wav").write_text("this is no audio")
    (bad / "empty.flac").write_bytes(b"")
    soundfile.write(bad / "no samples.wav", torch.zeros(0).numpy(), RATE)
    soundfile.write(bad / "silent.wav", torch.zeros(2 * RATE).numpy(), RATE)
    soundfile.write(bad / "short.wav", tune(1)[:8000].numpy(), RATE)
    soundfile.write(bad / "nan.wav", torch.full((2 * RATE,), math.nan).numpy(), RATE, subtype="FLOAT")
    with pytest.raises(UserError, match=r"6 of 14 clips .*--max-skip.*empty.flac.*nan.wav.*short.wav.*silent.wav"):
        score(real, bad)
    result = evaluate(real, bad, cache=None, health=False, anchors=False, max_rejects=0.5)
    assert sorted(reject["path"] for reject in result["sets"]["generated"]["rejected"]) == [
        "empty.flac", "nan.wav", "no samples.wav", "short.wav", "silent.wav", "text ü.wav"]
    assert result["embedders"][0]["scores"] == score(real, good)["scores"]


def test_rates_channels_and_subfolders_are_read(tmp_path):
    Audio(torch.stack([tune(1, rate=48000)] * 8), 48000).save(tmp_path / "a" / "eight.wav")
    Audio(tune(1, rate=48000)[None], 48000).save(tmp_path / "b" / "mono.flac")
    clips = check_clips(tmp_path)
    features = [f for _, f in embed_clips(clips, load_embedder("melstats"), EmbeddingCache(None))]
    assert len(features) == 2 and torch.allclose(*features, atol=1e-3)


def test_short_clips_can_be_padded(real, tmp_path):
    short = folder(tmp_path, range(4), change=lambda x: x[:8000])
    with pytest.raises(UserError, match="less than one window"):
        score(real, short)
    assert score(real, short, short="pad")["windows"]["generated"] == 4


def test_a_cached_run_gives_the_numbers_of_a_fresh_one_and_embeds_nothing(real, tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "embeddings.sqlite"
    fresh = evaluate(real, real, cache=cache, health=False)["embedders"]
    monkeypatch.setattr("evaluation.embedders.melstats.vggish_log_mel", None)  # calling it would raise
    assert evaluate(real, real, cache=cache, health=False)["embedders"] == fresh


def test_a_cache_key_names_all_that_the_numbers_depend_on():
    class Fake:
        name, version, weights_sha256, sample_rate = "x", 1, "abc", 16000

    class Newer(Fake):
        version = 2

    class Other(Fake):
        weights_sha256 = "abd"

    keys = {cache_key("1", Fake), cache_key("2", Fake), cache_key("1", Newer), cache_key("1", Other),
            cache_key("1", Fake, "noise")}
    assert len(keys) == 5 and cache_key("1", Fake) in keys


def test_a_cache_that_cannot_be_opened_stops_nothing(tmp_path, capsys):
    (tmp_path / "cache").write_text("no folder and no database")
    for path in (tmp_path / "cache", tmp_path / "cache" / "embeddings.sqlite"):
        cache = EmbeddingCache(path)
        cache.put("key", torch.ones(1, 2))
        assert cache.get("key") is None
    assert "no embedding cache" in capsys.readouterr().err


def test_the_command_writes_its_result_whole(real, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AUDIOGEN_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out" / "result.json"
    assert main(["evaluate", str(real), str(folder(tmp_path / "gen", range(60, 64))), "-o", str(out)]) == 0
    result = json.loads(out.read_text())
    assert sorted(p.name for p in out.parent.iterdir()) == ["result.clips.csv", "result.json"]
    assert result["embedders"][0]["embedder"] == "melstats" and "not comparable" in result["embedders"][0]["note"]
    assert "soxr" in result["embedders"][0]["preprocessing"] and result["torch"] == torch.__version__
    assert len(result["health"]) == 4
    printed = capsys.readouterr().out
    assert "floor" in printed and "white noise" in printed


@pytest.mark.parametrize("words, said", [
    (["nowhere", "nowhere"], "no folder of clips at nowhere"),
    (["{real}", "{empty}"], "holds no audio"),
    (["{real}", "{real}", "-e", "yamnet", "--weights", "{empty}"], "yamnet.tflite not found"),
    (["{real}", "{real}", "-e", "yamnot"], "yamnet"),
    (["{real}", "{real}", "--max-rejects", "2"], "between 0 and 1"),
])
def test_what_a_person_can_put_right_is_one_line_and_exit_code_2(real, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.delenv("AUDIOGEN_WEIGHTS", raising=False)
    (tmp_path / "empty").mkdir()
    words = [word.format(real=real, empty=tmp_path / "empty") for word in words]
    assert main(["evaluate", "--no-cache", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error


def test_a_condition_that_is_met_ends_with_3_and_leaves_the_result(real, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AUDIOGEN_CACHE", str(tmp_path / "cache"))
    made, out = folder(tmp_path / "made", range(60, 64)), tmp_path / "result.json"
    for condition, code, said in (("frechet.value > 0", 3, "failed: melstats.frechet.value is"),
                                  ("frechet.value > 1e9", 0, ""), ("fad_inf.hi > 3", 2, "has no fad_inf.hi")):
        out.unlink(missing_ok=True)
        assert main(["evaluate", str(real), str(made), "--no-anchors", "-o", str(out), "--fail-if", condition]) == code
        error = capsys.readouterr().err
        assert said in error and ("failed" in error) == (code == 3) and out.exists()
