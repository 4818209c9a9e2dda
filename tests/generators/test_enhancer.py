"""The enhancer spoils what it learns from by its rng alone, and brings back what it has learned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_engine import load_words

from audiogen.cli import main
from audiogen.conditioning.labels import StyleVocabulary
from audiogen.core.audio import Audio
from audiogen.core.checkpoint import save_checkpoint
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Batch, Condition
from audiogen.core.mel_format import MelFormat
from audiogen.core.rng import SampleRng
from audiogen.generators.enhancer import EnhancerConfig, MelEnhancer, Spoiling
from audiogen.generators.networks.gated import GatedConfig
from audiogen.pipeline import DEFAULT
from audiogen.signal.mel import MelSpectrogram

TINY = GatedConfig(width=48, depth=3, modulation=16)
RATE, FRAMES = 22050, 32


def tones(count: int = 4) -> torch.Tensor:
    """(count, 1, time): a tone with twelve partials each."""
    time = torch.arange(FRAMES * 256) / RATE
    return torch.stack([
        0.1 * sum(torch.sin(2 * torch.pi * 220 * 2 ** (k / 6) * n * time) / n for n in range(1, 13))[None]
        for k in range(count)
    ])


def test_segments_are_spoiled_by_their_own_numbers_and_some_are_not():
    audio = tones().repeat(16, 1, 1)
    ids = range(100, 164)
    spoiled = Spoiling().spoil(audio, RATE, SampleRng(0, ids=ids))
    torch.testing.assert_close(Spoiling().spoil(audio[5:7], RATE, SampleRng(0, ids=[105, 106])), spoiled[5:7])
    changed = (spoiled - audio).abs().amax(dim=(1, 2)) > 1e-4
    assert 0.6 < changed.float().mean() < 0.97  # 1 - 0.4 * 0.5 of them are
    quiet = Spoiling(noisy=0.0, narrow=0.0).spoil(audio, RATE, SampleRng(0, ids=ids))
    torch.testing.assert_close(quiet, audio, rtol=0, atol=1e-5)
    for wrong in (dict(noisy=1.5), dict(cutoff=(4000.0, 1000.0))):
        with pytest.raises(UserError, match="share|lower end"):
            Spoiling(**wrong)


@pytest.fixture(scope="module")
def trained() -> MelEnhancer:
    """A small one that has seen four tones, with white and coloured noise, often."""
    torch.manual_seed(0)
    config = EnhancerConfig(gated=TINY, coarse=replace(TINY, means=()), vector_dim=4,
                            spoiling=Spoiling(noisy=1.0, snr_db=(0.0, 10.0), narrow=0.0))
    model = MelEnhancer(config)
    audio = tones()
    mel = MelSpectrogram(MelFormat())(audio)[..., :FRAMES]
    model.set_statistics(mel.mean(dim=(0, 2)), mel.std(dim=(0, 2)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(60):
        batch = Batch(audio, mel, torch.full((4,), FRAMES), Condition(vector=torch.zeros(4, 4)), torch.arange(4))
        loss = model.loss(batch, SampleRng(0, step=step, ids=range(4)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_noise_is_taken_out(trained):
    audio = tones()
    front_end = MelSpectrogram(MelFormat())
    spoiled = trained.config.spoiling.spoil(audio, RATE, SampleRng(7, ids=range(50, 54)))
    clean, noisy = (front_end(sound)[..., :FRAMES] for sound in (audio, spoiled))
    with torch.no_grad():
        made = trained.enhance(noisy, rng=SampleRng(0, ids=range(4)))
    assert made.shape == noisy.shape
    assert (made - clean).abs().mean() < 0.5 * (noisy - clean).abs().mean()


def test_the_verb_writes_a_sound_of_the_same_length_and_other_families_are_refused(trained, tmp_path, capsys):
    vocabulary = StyleVocabulary(("cello",), load_words())
    save_checkpoint(tmp_path / "enhancer", trained, room="generator", labels={"vocabulary": vocabulary.to_dict()})
    Audio(tones(1)[0], RATE).save(tmp_path / "a.wav")
    words = ["enhance", str(tmp_path / "a.wav"), "--checkpoint", str(tmp_path / "enhancer")]
    assert main([*words, "-o", str(tmp_path / "b.wav")]) == 0
    made = Audio.read(tmp_path / "b.wav")
    assert made.samples.shape == (1, FRAMES * 256) and made.made_by["enhance"]["file"] == "a.wav"
    assert main([*words, "-o", str(tmp_path / "a.wav")]) == 2
    assert "its own source" in capsys.readouterr().err
    assert main(["generate", "cello", "--checkpoint", str(tmp_path / "enhancer"), "-o", str(tmp_path / "c.wav")]) == 2
    assert "audiogen enhance" in capsys.readouterr().err
    assert main(["enhance", str(tmp_path / "a.wav"), "--checkpoint", str(DEFAULT), "-o", str(tmp_path / "d.wav")]) == 2
    assert "cannot enhance" in capsys.readouterr().err


def test_the_shipped_one_takes_noise_out_and_leaves_a_good_recording_alone():
    """Notes that it was never trained on."""
    from audiogen.cli.enhance import SHIPPED
    from audiogen.core.checkpoint import load_checkpoint
    from audiogen.signal.degrade import add_noise, low_pass

    model = load_checkpoint(SHIPPED, room="generator").model
    front_end, time = MelSpectrogram(model.config.mel), torch.arange(RATE) / RATE
    audio = torch.cat([sum(torch.sin(2 * torch.pi * hertz * h * time) / h for h in range(1, 31)) * torch.exp(-3 * time)
                       for hertz in (220.0, 329.6)])[None, None] * 0.1
    noise = torch.randn(audio.shape, generator=torch.Generator().manual_seed(0))
    clean = front_end(audio)

    def error(sound: torch.Tensor) -> tuple[float, float]:
        mel = front_end(sound)
        with torch.inference_mode():
            mended = model.enhance(mel, rng=SampleRng(0, ids=[0]))
        return float((mel - clean).abs().mean()), float((mended - clean).abs().mean())

    before, after = error(add_noise(audio, noise, torch.tensor([10.0])))
    assert after < 0.9 * before
    before, after = error(low_pass(audio, torch.tensor([2500.0]), RATE))
    assert after < before
    assert error(audio)[1] < 0.5
