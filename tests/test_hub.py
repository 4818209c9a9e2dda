"""A hub repository is pinned by its revision and its hash, and a clip says what made it: the real client, asking a hub
on this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote

import pytest
from tiny_engine import load_words, save_engine

from audiogen.core.hub import folder_hash, is_name

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = ".safetensors"
CHILD = """
import sys
from audiogen.core.errors import UserError
from audiogen.core.interfaces import Prompt
from audiogen.pipeline import Engine
try:
    engine = Engine.from_pretrained(sys.argv[1])
except UserError as reason:
    sys.exit(f"refused: {reason}")
made_by = engine.generate(Prompt("rain", seconds=0.3), seed=0).made_by
print(engine.hub, made_by["hub"] == engine.hub)
try:
    engine.again({**made_by, "checkpoint": {"generator": "another"}})
except UserError as reason:
    print(str(reason).rpartition("--checkpoint ")[2])
"""


class Hub:
    """One repository "me/engine" over HTTP, as huggingface.co answers; `spoiled` is the file
    that it gives in other bytes; `silent`: it lists no digests, as some mirrors do."""

    def __init__(self, files: Path) -> None:
        self.files, self.spoiled, self.silent, self.asked = files, "", False, []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def digests(self, path: Path) -> dict:
        content = path.read_bytes()
        values = {"rfilename": path.relative_to(self.files).as_posix(), "size": len(content),
                  "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
        if path.suffix == LARGE:
            values["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return values

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        path = unquote(request.path.partition("?")[0])
        self.asked.append((request.command, path))
        revisions, headers, body, status = ("main", "v1", COMMIT), {}, b"", 404
        if path.startswith("/api/models/me/engine"):
            revision = path.partition("/revision/")[2] or "main"
            if path.endswith("/tree/" + COMMIT):
                revision = COMMIT
            if revision in revisions:
                files = [self.digests(file) for file in sorted(self.files.rglob("*")) if file.is_file()]
                if "/tree/" in path:
                    body = json.dumps([{"type": "file", "path": file["rfilename"], "size": file["size"],
                                        "oid": file["blobId"], **({"lfs": {"oid": file["lfs"]["sha256"], "size":
                                        file["size"], "pointerSize": 134}} if "lfs" in file else {})}
                                       for file in files]).encode()
                else:
                    body = json.dumps({"id": "me/engine", "modelId": "me/engine", "sha": COMMIT, "private": False,
                                       "tags": [], "downloads": 0, "likes": 0,
                                       "siblings": [{"rfilename": file["rfilename"]} for file in files]
                                       if self.silent else files}).encode()
                headers["Content-Type"], status = "application/json", 200
            else:
                headers["X-Error-Code"], headers["X-Error-Message"] = "RevisionNotFound", "no such revision"
        elif path.startswith(f"/me/engine/resolve/{COMMIT}/"):
            file = self.files / path.partition(f"{COMMIT}/")[2]
            if file.is_file():
                digests = self.digests(file)
                body, status = file.read_bytes(), 200
                if self.spoiled == digests["rfilename"]:
                    body = bytes(reversed(body))
                etag = digests["lfs"]["sha256"] if "lfs" in digests else digests["blobId"]
                headers |= {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)


@pytest.fixture
def hub(tmp_path):
    folder = save_engine(tmp_path / "published", load_words())
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "setup.py").write_text("raise SystemExit('nobody asked for this to run')\n")
    hub = Hub(folder)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def ask(hub: Hub, tmp_path: Path, name: str, **changes: str) -> tuple[int, str]:
    """What a process of its own, with an empty cache, makes of that name: (exit code, all that it said)."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0",
                   "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1]),
                   "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **changes}
    done = subprocess.run([sys.executable, "-c", CHILD, name], capture_output=True, text=True, env=environment,
                          timeout=120, cwd=tmp_path)
    return done.returncode, done.stdout + done.stderr


def test_a_revision_becomes_a_commit_and_no_code_is_fetched(hub, tmp_path):
    full = folder_hash(hub.files)
    code, said = ask(hub, tmp_path, "me/engine@v1")
    name = f"me/engine@{COMMIT}#{full[:16]}"
    assert (code, said.split()) == (0, [name, "True", name])
    fetched = {path.name for path in (tmp_path / "cache").rglob("snapshots/*/**/*")}
    assert "model.safetensors" in fetched and "README.md" in fetched and "setup.py" not in fetched
    before = len(hub.asked)
    assert ask(hub, tmp_path, f"me/engine@{COMMIT}#{full}")[0] == 0
    assert not [path for _, path in hub.asked[before:] if path.endswith(LARGE)]  # what is there is not fetched again
    offline = ask(hub, tmp_path, f"me/engine@{COMMIT}#{full}", HF_ENDPOINT="http://127.0.0.1:9")
    assert offline[0] == 0 and full[:16] in offline[1]


def test_other_files_than_were_pinned_are_refused(hub, tmp_path):
    code, said = ask(hub, tmp_path, "me/engine@main#" + 16 * "0")
    assert code == 1 and "refused" in said and f"have the hash {folder_hash(hub.files)}" in said
    code, said = ask(hub, tmp_path, "me/engine@main#12ab")
    assert code == 1 and "16 to 64 hex digits" in said


@pytest.mark.parametrize("name", ["generator/model.safetensors", "generator/config.json"])
def test_bytes_that_the_hub_does_not_list_are_refused_and_removed(hub, tmp_path, name):
    hub.spoiled = name
    code, said = ask(hub, tmp_path, "me/engine")
    assert code == 1 and f"{name} is not what the hub lists" in said
    hub.spoiled = ""
    assert ask(hub, tmp_path, "me/engine")[0] == 0


def test_a_mirror_that_lists_no_digests_needs_a_hash(hub, tmp_path):
    hub.silent, full = True, folder_hash(hub.files)
    code, said = ask(hub, tmp_path, "me/engine")
    assert code == 1 and "lists no digest for" in said and "#HASH" in said
    assert ask(hub, tmp_path, f"me/engine@{COMMIT}#{full}")[0] == 0
    assert ask(hub, tmp_path, "me/engine@main#" + 16 * "0")[0] == 1


def test_a_revision_or_repository_that_is_not_there_is_named(hub, tmp_path):
    for name in ("me/engine@nowhere", "me/nothing"):
        code, said = ask(hub, tmp_path, name)
        assert code == 1 and f"refused: '{name}' is no folder here, and the hub did not give it" in said


def test_paths_are_no_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    assert is_name("me/engine") and is_name("me/engine@v1#0123456789abcdef")
    assert not any(is_name(text) for text in ("runs/mine", "./me/engine", "/me/engine", "engine", "a/b/c", "~/engine"))
