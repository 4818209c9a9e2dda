"""CLAP, EnCodec and MERT from folders on disk: made small and random here, they give what transformers itself gives."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from audiogen.core.errors import UserError
from evaluation.embedders.base import load_embedder
from evaluation.embedders.model_folder import find_folder, transformers

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = transformers()
except UserError:
    library = None
needed = pytest.mark.skipif(library is None, reason="transformers is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # the library warns of its own future


def hubert():
    return library.HubertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                                conv_dim=(8,) * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)


@needed
def test_mert_is_a_hubert_whose_weights_fit_exactly(tmp_path):
    from safetensors.torch import load_file, save_file

    network = library.HubertModel(hubert()).eval()
    network.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {
        "model_type": "mert_model", "auto_map": {"AutoModel": "modeling_MERT.MERTModel"}}))
    embedder = load_embedder("mert", weights={"mert": tmp_path})
    audio = 3 * torch.randn(1, 24000, generator=torch.Generator().manual_seed(0)) + 1
    with torch.no_grad():
        plain = (audio - audio.mean()) / audio.var(correction=0).sqrt()
        expected = network(plain).last_hidden_state
    assert torch.allclose(embedder(audio), expected, atol=1e-4) and expected.shape[2] == embedder.dim == 16
    assert len(embedder.weights_sha256) == 64
    state = load_file(tmp_path / "model.safetensors")
    dropped = state.pop(next(iter(sorted(state))))
    save_file(state | {"surplus": dropped}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="1 missing .*1 unknown \\(surplus\\)"):
        load_embedder("mert", weights=tmp_path)


@needed
def test_encodec_gives_the_frames_before_the_quantiser(tmp_path):
    network = library.EncodecModel(library.EncodecConfig(hidden_size=16, num_filters=2, codebook_size=8)).eval()
    network.save_pretrained(tmp_path / "encodec")
    embedder = load_embedder("encodec", weights=tmp_path)
    audio = 0.1 * torch.randn(2, 24000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.encoder(audio[:, None])
    rows = embedder(audio)
    assert rows.shape == (2, 75, 16) and torch.allclose(rows, expected.transpose(1, 2), atol=1e-5)
    assert embedder(audio[:, :100]).shape[1] == 0


@needed
def test_clap_embeds_windows_as_the_library_embeds_clips(tmp_path):
    config = library.ClapConfig(
        audio_config={"hidden_size": 32, "patch_embeds_hidden_size": 4, "depths": [1, 1], "num_attention_heads": [1, 2],
                      "num_hidden_layers": 2, "projection_dim": 8, "spec_size": 256, "num_mel_bins": 64},
        text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                     "projection_dim": 8, "vocab_size": 32}, projection_dim=8)
    config.audio_config.hidden_size = 4 * 2
    network = library.ClapModel(config).eval()
    network.save_pretrained(tmp_path / "clap")
    library.ClapFeatureExtractor().save_pretrained(tmp_path / "clap")
    embedder = load_embedder("clap", weights=tmp_path)
    audio = 0.1 * torch.randn(1, 15 * 48000, generator=torch.Generator().manual_seed(0))
    rows = embedder(audio)
    assert rows.shape == (1, 2, 8) and torch.allclose(rows.norm(dim=2), torch.ones(1, 2), atol=1e-5)
    inputs = embedder.front_end(audio[0, 5 * 48000 :].numpy(), sampling_rate=48000, truncation="rand_trunc",
                                return_tensors="pt")
    with torch.no_grad():
        found = network.get_audio_features(**inputs)
    assert torch.allclose(rows[0, 1], getattr(found, "pooler_output", found)[0], atol=1e-5)


def test_what_is_missing_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("AUDIOGEN_WEIGHTS", raising=False)
    with pytest.raises(UserError, match="--weights mert=FOLDER"):
        find_folder("mert", source="somewhere", weights=tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(UserError, match="pickled weights are not opened"):
        find_folder("mert", source="somewhere", weights=tmp_path)
