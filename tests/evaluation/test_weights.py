"""A download is whole and right or not at all; one that broke off goes on; pickles give tensors and run nothing."""

from __future__ import annotations

import hashlib
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from audiogen.cli import main
from audiogen.core.errors import UserError
from evaluation import weights
from evaluation.embedders.base import read_tensors, read_weights
from evaluation.weights import BY_HAND, WEIGHTS, File, Weights, convert_pickle, fetch, find_weights

DATA = bytes(range(256)) * 40  # 10240 bytes
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `data`, but no more than `limit` bytes an answer; `ranges`: whether it can go on. Keeps what was asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.data, self.limit, self.ranges, self.asked = DATA, len(DATA), True, []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/file"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(asked[6:-1]) if asked and self.server.ranges else 0
        rest = self.server.data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.limit])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("size", [len(DATA), 0])
def test_the_right_file_arrives_and_is_not_fetched_again(server, tmp_path, size):
    seen = []
    for _ in range(2):
        fetch(File("w", server.url, SHA256, size), tmp_path / "in" / "w", step=lambda *at: seen.append(at))
    assert (tmp_path / "in" / "w").read_bytes() == DATA and server.asked == [None]
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["w"] and seen[-1] == (len(DATA), len(DATA))


def test_another_file_is_refused_and_nothing_is_kept(server, tmp_path):
    server.data = DATA[:-1] + b"!"
    with pytest.raises(UserError, match="is not the published file .*nothing was kept"):
        fetch(File("w", server.url, SHA256, len(DATA)), tmp_path / "w")
    assert not list(tmp_path.iterdir())
    (tmp_path / "w").write_bytes(b"the person's own")
    with pytest.raises(UserError, match="move it away"):
        fetch(File("w", server.url, SHA256, len(DATA)), tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == b"the person's own"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_goes_on(server, tmp_path, ranges):
    file = File("w", server.url, SHA256, len(DATA))
    server.limit = 4000
    with pytest.raises(UserError, match="broke off after 4000 of 10240 bytes"):
        fetch(file, tmp_path / "w")
    assert not (tmp_path / "w").exists()  # no half-written file has the name
    server.limit, server.ranges = len(DATA), ranges
    fetch(file, tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == DATA and server.asked == [None, "bytes=4000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


def test_no_more_is_taken_than_there_should_be(server, tmp_path):
    server.data = DATA + b"and a million bytes more"
    fetch(File("w", server.url, SHA256, len(DATA)), tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == DATA


def test_without_a_network_it_says_so(tmp_path, server):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="did not arrive .*copy the file to"):
        fetch(File("w", url, SHA256, len(DATA)), tmp_path / "w")


def test_a_git_blob_is_known_by_its_sha1(server, tmp_path):
    server.data = b"hello\n"
    fetch(File("w", server.url, "ce013625030ba8dba906f756967f9e9ca394464a", 6), tmp_path / "w")  # git hash-object
    assert (tmp_path / "w").read_bytes() == b"hello\n"


def test_the_command_fetches_a_model_and_turns_its_pickle_into_safetensors(server, tmp_path, monkeypatch, capsys):
    from safetensors.torch import load_file

    shared = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": shared, "b": shared[0]}, tmp_path / "made.bin")
    server.data = (tmp_path / "made.bin").read_bytes()
    row = File("pytorch_model.bin", server.url, hashlib.sha256(server.data).hexdigest(), len(server.data))
    monkeypatch.setitem(WEIGHTS, "mert", Weights((row,), "CC0-1.0", folder="mert", pickle="pytorch_model.bin"))
    monkeypatch.setenv("AUDIOGEN_WEIGHTS", str(tmp_path / "home"))
    for _ in range(2):
        assert main(["weights", "get", "mert"]) == 0
    assert "CC0-1.0" in capsys.readouterr().out and len(server.asked) == 1
    assert [p.name for p in (tmp_path / "home" / "mert").iterdir()] == ["model.safetensors"]
    state = load_file(tmp_path / "home" / "mert" / "model.safetensors")
    assert torch.equal(state["a"], shared) and torch.equal(state["b"], shared[0])
    assert main(["weights", "list"]) == 0 and "yes" in capsys.readouterr().out


def test_a_pickle_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was here"), "w"))

    (tmp_path / "evil.bin").write_bytes(pickle.dumps(Evil(), protocol=2))
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    for name in ("evil.bin", "evil.pth"):
        with pytest.raises(UserError, match="no file of tensors"):
            convert_pickle(tmp_path / name, tmp_path / "model.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.bin", "evil.pth"]


def test_arrays_beside_the_tensors_are_let_pass(tmp_path):
    """As in the 16 kHz checkpoint of PANNs, which keeps the order of its sampler."""
    torch.save({"model": {"w": torch.ones(2)}, "sampler": {"at": np.int64(3), "order": np.arange(4)}}, tmp_path / "p")
    found = read_tensors((tmp_path / "p").read_bytes(), what="p")
    assert torch.equal(found["model"]["w"], torch.ones(2)) and found["sampler"]["order"].tolist() == [0, 1, 2, 3]


def test_the_table_and_the_embedders_say_the_same(monkeypatch, tmp_path):
    from evaluation import dnsmos
    from evaluation.embedders import musicnn, panns, vggish, yamnet

    for name, kind in (("musicnn", musicnn.MusicNN), ("musicnn_mtt", musicnn.MusicNNMTT), ("yamnet", yamnet.YAMNet),
                       ("vggish", vggish.VGGish), ("panns", panns.PANNs), ("panns_32k", panns.PANNs32k)):
        file = find_weights(name).files[0]
        assert (kind.name, file.name, file.hash) == (name, kind.file, kind.sha256)
    assert WEIGHTS["dnsmos"].files[0].hash == dnsmos.SHA256
    for row in WEIGHTS.values():  # pinned: a release, a record, or a whole commit stands in every address
        for file in row.files:
            assert len(file.hash) in (40, 64) and file.url.startswith("https://")
            assert "main/" not in file.url.split("/resolve/")[-1][:5]
    for name in BY_HAND:
        with pytest.raises(UserError, match="not fetched.*--weights"):
            find_weights(name)
    monkeypatch.setenv("AUDIOGEN_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="looked in .*nowhere; audiogen weights get yamnet fetches it"):
        read_weights("yamnet.tflite", sha256="", source="its authors", weights=None)


def test_what_is_wrong_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(weights, "fetch", None)  # would fail loudly: nothing may be fetched here
    for words in (["get"], ["get", "yamnot"], ["get", "yamnet", "encodec"], ["list", "yamnet"],
                  ["convert", str(tmp_path / "none.bin")], ["fetch", "yamnet"]):
        assert main(["weights", *words]) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith("audiogen: ") and "\n" not in said
