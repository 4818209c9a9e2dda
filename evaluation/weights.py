"""Published weights: where each file lies, what it must be, and under which licence. Fetched only when asked for.

    audiogen weights get yamnet        one file, checked against its sha256 before it has its name

Every hash here can be checked against a public source, which stands beside it. What is published as a pickle only is
read by `torch.load(weights_only=True)`, which runs no code, and kept as safetensors where the embedder wants a folder.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from audiogen.core.config import did_you_mean
from audiogen.core.errors import UserError
from audiogen.core.files import cache_folder, whole_file

BLOCK = 1 << 20  # bytes read at a time
TIMEOUT = 60.0  # seconds without a byte


@dataclass(frozen=True)
class File:
    """One file. `hash`: its sha256 (64 digits), or where that is not published for a small file its git blob's sha1
    (40), which the revision in its address stands for."""

    name: str
    url: str
    hash: str
    bytes: int = 0  # 0: not published; then the server's word is taken until the hash is known


@dataclass(frozen=True)
class Weights:
    files: tuple[File, ...]
    licence: str
    folder: str = ""  # of a model that is a folder; "": files beside each other
    pickle: str = ""  # the file that is turned into model.safetensors

    @property
    def megabytes(self) -> str:
        total = sum(file.bytes for file in self.files)
        return f"{total / 1e6:.0f} MB" if total else "size unknown"


_MUSICNN = ("https://raw.githubusercontent.com/Quint-e/musicnn_keras/ad6cfb80517dadb9ef70ac73a5375074f7c8258f/"
            "musicnn_keras/keras_checkpoints/")
_PANNS = "https://zenodo.org/records/3987831/files/"
_CLAP = "https://huggingface.co/laion/larger_clap_music/resolve/a0b4534a14f58e20944452dff00a22a06ce629d1/"
_CLAP_AUDIO = "https://huggingface.co/laion/clap-htsat-unfused/resolve/8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a/"
_MERT = "https://huggingface.co/m-a-p/MERT-v1-95M/resolve/12af15fef9d0ac838c3f475bfbbf26d2060dd4f5/"

WEIGHTS: dict[str, Weights] = {
    # The next five: hashed here from the repositories themselves, at the commits in the addresses.
    "musicnn": Weights((File(
        "MSD_musicnn.h5", _MUSICNN + "MSD_musicnn.h5",
        "412a832c8527a813e084ba6f2cc7d068ecbbf1b68bda8c1de2e7de0d1f5fe7d1", 3319120),), "ISC"),
    "musicnn_mtt": Weights((File(
        "MTT_musicnn.h5", _MUSICNN + "MTT_musicnn.h5",
        "1a66a2e58e862e894c088bd7789b05874becf994f275c54d9575dab83fab4ebe", 3319120),), "ISC"),
    "yamnet": Weights((File(
        "yamnet.tflite", "https://raw.githubusercontent.com/tensorflow/tflite-support/"
        "dd3362ea685bb7ab1f7268c81ec567d3b720ae57/tensorflow_lite_support/cc/test/testdata/task/audio/"
        "yamnet_audio_classifier_with_metadata.tflite",
        "10c95ea3eb9a7bb4cb8bddf6feb023250381008177ac162ce169694d05c317de", 4126810),), "Apache-2.0"),
    "dnsmos": Weights((File(
        "dnsmos_sig_bak_ovr.onnx", "https://raw.githubusercontent.com/microsoft/DNS-Challenge/"
        "591184a9fcb2cbdec02520fed81a32bbbf9d73ff/DNSMOS/DNSMOS/sig_bak_ovr.onnx",
        "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd", 1157965),), "CC-BY-4.0"),
    # The release's file name carries the beginning of its sha256; the whole stands in the D3M primitives' registry.
    "vggish": Weights((File(
        "vggish-10086976.pth", "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
        "10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b"),), "Apache-2.0"),
    # Several public projects pin these two by this sha256, checked against the record's md5.
    "panns": Weights((File(
        "Cnn14_16k_mAP=0.438.pth", _PANNS + "Cnn14_16k_mAP%3D0.438.pth",
        "e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6", 358668570),), "CC-BY-4.0"),
    "panns_32k": Weights((File(
        "Cnn14_mAP=0.431.pth", _PANNS + "Cnn14_mAP%3D0.431.pth",
        "0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31", 327428481),), "CC-BY-4.0"),
    # The hub's own object ids of these revisions, as several public projects pin them.
    "clap": Weights((
        File("config.json", _CLAP + "config.json",
             "2d7722d338bb83ea8824272b1431f088954d3425d79eb3c2d39489478516dc03", 628),
        File("preprocessor_config.json", _CLAP + "preprocessor_config.json",
             "9739f58296aa6f9ac18008fd0150fb2649bc554985fbde86d0a4041c882ac753", 541),
        File("vocab.json", _CLAP + "vocab.json",
             "ed19656ea1707df69134c4af35c8ceda2cc9860bf2c3495026153a133670ab5e", 798293),
        File("merges.txt", _CLAP + "merges.txt",
             "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5", 456318),
        File("pytorch_model.bin", _CLAP + "pytorch_model.bin",
             "5c289311f4a030d768af7ffbfdecd01b008aa64824211899a4e59f4f9d154fd1", 776444665),
    ), "Apache-2.0", folder="clap", pickle="pytorch_model.bin"),
    "clap_audio": Weights((
        File("config.json", _CLAP_AUDIO + "config.json",
             "9efb9557bc804f2ca6e394486af2e45dfed0b18554909735a99c6220b84e4288", 5390),
        File("preprocessor_config.json", _CLAP_AUDIO + "preprocessor_config.json",
             "9739f58296aa6f9ac18008fd0150fb2649bc554985fbde86d0a4041c882ac753", 541),
        File("vocab.json", _CLAP_AUDIO + "vocab.json",
             "ed19656ea1707df69134c4af35c8ceda2cc9860bf2c3495026153a133670ab5e", 798293),
        File("merges.txt", _CLAP_AUDIO + "merges.txt",
             "fe36cab26d4f4421ed725e10a2e9ddb7f799449c603a96e7f29b5a3c82a95862", 456356),
        File("tokenizer.json", _CLAP_AUDIO + "tokenizer.json",
             "77ef92283d67f0d97e1454909a964afcbfa2019f0fb9f18f8e88d5c25c3ba729", 2108746),
        File("tokenizer_config.json", _CLAP_AUDIO + "tokenizer_config.json",
             "377f91458f7729a4574a84c77bdce67dbc3c58c1a345a29bbf8c4eb1307948a3", 384),
        File("pytorch_model.bin", _CLAP_AUDIO + "pytorch_model.bin",
             "1cd3c601bc4afe0fa87be3de4c13dd2cfadd249fac1e29acf74a9b296c3219bb", 614525833),
    ), "Apache-2.0", folder="clap_audio", pickle="pytorch_model.bin"),
    "mert": Weights((
        File("config.json", _MERT + "config.json", "8061aff2203f5caeb5c58628dba945de3ef71079", 1817),
        File("preprocessor_config.json", _MERT + "preprocessor_config.json",
             "12d419697ffa30069405b3ace413be9a997e9f7f", 211),
        File("pytorch_model.bin", _MERT + "pytorch_model.bin",
             "a2b8b747f72c06e0595aeae41ae5473f4364938c6b39b2c58be38c48e6bd3fcd", 377552987),
    ), "CC-BY-NC-4.0", folder="mert", pickle="pytorch_model.bin"),
}
ALIASES = {"vggish_google": "vggish", "vggish_relu": "vggish"}
# No whole hash of these is published, so they are not fetched: (what, where it is).
BY_HAND = {"vggish_pca": "github.com/harritaylor/torchvggish, release v0.1, vggish_pca_params-970ea276.pth",
           "encodec": "facebook/encodec_24khz of the Hugging Face hub: config.json and model.safetensors"}


def own_folder() -> Path:
    """Where `audiogen weights get` puts them and every embedder looks: $AUDIOGEN_WEIGHTS, or in the user's cache."""
    named = os.environ.get("AUDIOGEN_WEIGHTS")
    return Path(named) if named else cache_folder() / "weights"


def find_weights(name: str) -> Weights:
    """The row of that name. Raises `UserError` with the way out."""
    name = ALIASES.get(name, name)
    if name in BY_HAND:
        raise UserError(f"no whole hash of the weights of {name} is published, so they are not fetched: get "
                        f"{BY_HAND[name]}, and name its folder with --weights")
    if name not in WEIGHTS:
        raise UserError(f"no weights are called {name!r}{did_you_mean(name, WEIGHTS)}; known are {', '.join(WEIGHTS)}")
    return WEIGHTS[name]


def get_weights(name: str, folder: Path, *, step: Callable[[int, int], None] = lambda done, whole: None) -> list[Path]:
    """Fetch what is not there yet and right; -> the files. A model that is published as a pickle is turned into
    safetensors. `step`: called with (bytes there, bytes in all) of each file."""
    weights = find_weights(name)
    place = folder / weights.folder if weights.folder else folder
    found = []
    for file in weights.files:
        path = place / file.name
        if file.name == weights.pickle:
            path = place / "model.safetensors"
            if not path.is_file():
                fetch(file, place / file.name, step=step)
                convert_pickle(place / file.name, path)
                (place / file.name).unlink()
        else:
            fetch(file, path, step=step)
        found.append(path)
    return found


def fetch(file: File, path: Path, *, step: Callable[[int, int], None] = lambda done, whole: None) -> None:
    """Download `file` to `path`, whole and right or not at all. What came before a broken connection lies beside it as
    .part, and is not fetched again."""
    if path.is_file():
        if digest_of(path, file.hash) == file.hash:
            return
        raise UserError(f"{path} is there and is not the published file: move it away, then get it again")
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = _download(file, part, step)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as reason:
        raise UserError(f"{file.url} did not arrive ({getattr(reason, 'reason', reason)}): run it again to go on, or "
                        f"copy the file to {path} by other means") from None
    if part.stat().st_size < whole:
        raise UserError(f"{file.url} broke off after {part.stat().st_size} of {whole} bytes: run it again to go on")
    found = digest_of(part, file.hash)
    if found != file.hash:
        part.unlink()
        raise UserError(f"{file.url} is not the published file (hash {found[:12]}..., not {file.hash[:12]}...): "
                        "nothing was kept")
    os.replace(part, path)


def _download(file: File, part: Path, step: Callable[[int, int], None]) -> int:
    """-> the bytes that there should be."""
    there = part.stat().st_size if part.is_file() else 0
    if file.bytes and there >= file.bytes:
        there = 0
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={there}-"} if there else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        if there and answer.status != 206:  # the server starts from the beginning
            there = 0
        whole = file.bytes or there + int(answer.headers.get("Content-Length") or 0)
        with open(part, "ab" if there else "wb") as out:
            # never more than there should be, whatever the server sends
            while there < whole and (block := answer.read(min(BLOCK, whole - there))):
                out.write(block)
                there += len(block)
                step(there, whole)
    return whole


def digest_of(path: Path, like: str) -> str:
    """The file's sha256, or where `like` is as short as one its git blob's sha1."""
    digest = hashlib.sha256()
    if len(like) == 40:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as opened:
        while block := opened.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def convert_pickle(source: Path, target: Path) -> int:
    """The tensors of a torch file, read without running code of it -> safetensors; -> how many. Raises `UserError`
    where the file holds anything else."""
    from safetensors.torch import save_file

    from evaluation.embedders.base import read_tensors

    if not source.is_file():
        raise UserError(f"no file at {source}")
    state = read_tensors(source.read_bytes(), what=str(source))
    state = state.get("state_dict", state)
    tensors = {name: value for name, value in state.items() if hasattr(value, "detach")}
    if not tensors:
        raise UserError(f"{source} holds no tensors by name; the weights alone are needed: a dictionary of tensors")
    with whole_file(target) as part:  # cloned: tensors that share memory are refused by safetensors
        save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, part,
                  metadata={"format": "pt"})
    return len(tensors)
