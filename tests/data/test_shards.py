"""Shards and their index are believed only as far as they can be: nothing in them reaches outside of their folder."""

from __future__ import annotations

import io
import json
import os
import tarfile

import numpy as np
import pytest

from audiogen.core.config import to_dict
from audiogen.core.errors import UserError
from audiogen.core.files import sha256_of
from audiogen.core.mel_format import MelFormat
from audiogen.data.shards import (
    Shard,
    ShardIndex,
    array_of,
    encode_array,
    members,
    parse_index,
    write_index,
    write_shard,
)

SAMPLES = [("a", {"flac": b"sound", "json": b"{}"}), ("b", {"json": b"{}", "mel.npy": b"mel"})]
SHA = "0" * 64


def index_of(**shard) -> ShardIndex:
    fields = {"name": "train-000000.tar", "split": "train", "samples": 2, "bytes": 10240, "sha256": SHA} | shard
    return ShardIndex("audio", MelFormat(), MelFormat().hash(), (Shard(**fields),), 3.0, {"train": {"cello": 2}},
                      ("cello",))


def tar_of(*infos: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for info in infos:
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    return buffer.getvalue()


def named(name: str, size: int = 1, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


# ------------------------------------------------------------------------- tar


def test_members_are_where_tarfile_finds_them(tmp_path):
    count, digest = write_shard(tmp_path / "x.tar", SAMPLES)
    data = (tmp_path / "x.tar").read_bytes()
    found = {key: {name: data[at : at + size] for name, (at, size) in places.items()}
             for key, places in members(data, where="x")}
    assert (count, digest) == (2, sha256_of(tmp_path / "x.tar")) and found == dict(SAMPLES)
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames() == ["a.json", "a.flac", "b.json", "b.mel.npy"]
        assert {(info.mtime, info.uid, info.gid, info.uname) for info in tar} == {(0, 0, 0, "")}


def test_a_shard_that_could_not_be_finished_is_not_there(tmp_path):
    def broken():
        yield SAMPLES[0]
        raise UserError("no more")

    with pytest.raises(UserError):
        write_shard(tmp_path / "x.tar", broken())
    assert list(tmp_path.iterdir()) == []


def test_names_that_lead_elsewhere_are_only_keys_and_links_and_devices_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path.parent))
    data = tar_of(
        named("../up.json"), named("/root.json"), named("a/../../deep.flac"),
        named("sym.json", 0, tarfile.SYMTYPE, "/etc"),
        named("hard.json", 0, tarfile.LNKTYPE, "../up.json"), named("dev.json", 0, tarfile.CHRTYPE),
        named("pipe.json", 0, tarfile.FIFOTYPE), named("folder", 0, tarfile.DIRTYPE), named("good.json"),
    )
    assert [key for key, _ in members(data, where="x")] == ["up", "root", "deep", "good"]
    assert list(tmp_path.iterdir()) == [] and sorted(os.listdir(tmp_path.parent)) == before


@pytest.mark.parametrize("size", [1 << 20, 1 << 40, 1 << 62])
def test_sizes_beyond_the_end_are_refused(size):
    data = bytearray(tar_of(named("a.json"), format=tarfile.GNU_FORMAT))
    head = named("a.json", size).tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(UserError, match="no whole shard"):
        members(head + bytes(data[512:]), where="x")


@pytest.mark.parametrize("data", [b"", b"x" * 5000, b"\x1f\x8b" + b"x" * 600])
def test_what_is_no_tar_is_refused(data):
    with pytest.raises(UserError, match="no whole shard"):
        members(data, where="x")


# ------------------------------------------------------------------------- arrays


def test_arrays_come_back_without_a_copy():
    array = np.random.default_rng(0).standard_normal((80, 43)).astype(np.float32)
    content = encode_array(array.T.copy().T)  # by columns, in memory
    found = array_of(content, where="x")
    assert found.dtype == np.float16 and found.base is not None
    np.testing.assert_array_equal(found, array.astype(np.float16))


def npy(array, **more) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **more)
    return buffer.getvalue()


@pytest.mark.parametrize("content", [
    b"", b"\x93NUMPY", npy(np.zeros(5, np.float16)), npy(np.zeros((2, 3), np.float32)),
    npy(np.zeros((2, 3), np.float16).T), npy(np.zeros((0, 3), np.float16)),
    npy(np.array([[{}]], dtype=object), allow_pickle=True), encode_array(np.zeros((2, 30)))[:-1],
    encode_array(np.zeros((2, 3))).replace(b"(2, 3)", b"(9, 9)"),
    encode_array(np.zeros((2, 3))).replace(b"2, 3", b"2,-3"),
])
def test_other_arrays_are_refused(content):
    with pytest.raises(UserError, match="no mel or latent"):
        array_of(content, where="x")


# ------------------------------------------------------------------------- index


def test_an_index_comes_back(tmp_path):
    write_index(tmp_path, index_of())
    assert parse_index((tmp_path / "index.json").read_bytes(), where="x") == index_of()


@pytest.mark.parametrize("shard", [
    {"name": "../x.tar"}, {"name": "/etc/x.tar"}, {"name": "a/b.tar"}, {"name": "a\\b.tar"}, {"name": "..tar"},
    {"name": "x.tar\n"}, {"name": ".x.tar"}, {"name": "C:x.tar"}, {"name": "x.zip"}, {"name": 7}, {"sha256": "../../x"},
    {"sha256": "0" * 63}, {"samples": 1 << 60}, {"samples": -1}, {"samples": 1.5}, {"samples": True},
    {"bytes": "10240"}, {"bytes": 100}, {"split": "nonsense"},
])
def test_shards_that_were_not_packed_are_refused(shard, tmp_path):
    values = to_dict(index_of())
    values["shards"][0] |= shard
    with pytest.raises(UserError, match="no index of shards.*pack again"):
        parse_index(json.dumps(values), where="x")


@pytest.mark.parametrize("change, said", [
    ({"mel_hash": "0" * 12}, "has the hash"), ({"what": "video"}, "unknown"), ({"format": 99}, "newer audiogen"),
    ({"rows": "80"}, "must be numbers"), ({"frames_per_step": 0}, "must be numbers"), ({"styles": 3}, "no index"),
    ({"played": [1]}, "no words"), ({"shards": None}, "lists no shards"), ({"unheard": 1}, "no field 'unheard'"),
    ({"mel": 5}, "no index"),
])
def test_an_index_that_contradicts_itself_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        parse_index(json.dumps(to_dict(index_of()) | change), where="x")


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "[" * 100_000, b"\xff\xfe", '{"shards": [1]}'])
def test_what_is_no_index_is_refused(text):
    with pytest.raises(UserError, match="no index of shards"):
        parse_index(text, where="x")
