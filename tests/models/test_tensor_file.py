"""A file is read for what it holds, whatever it is called; what holds no tensors is named, with what to do."""

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file
from torch import Tensor

from latent_ae.io.model_place import WEIGHT_SUFFIXES
from latent_ae.models.errors import ModelError
from latent_ae.models.tensor_file import read_tensors

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3.0)}


def pickled(legacy: bool, content: object = TENSORS) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("suffix", [*WEIGHT_SUFFIXES, ".CKPT", ".onnx", ".png", ""])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_the_content_decides(kind: str, suffix: str, tmp_path: Path) -> None:
    content = {"safetensors": save(TENSORS), "zip": pickled(legacy=False), "legacy": pickled(legacy=True)}
    file = tmp_path / f"file{suffix}"
    file.write_bytes(content[kind])
    assert_same(read_tensors(file), TENSORS)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_small_types_are_read(suffix: str, dtype: torch.dtype, tmp_path: Path) -> None:
    small = {"a": torch.tensor([0.5, -2.0, 0.0]).to(dtype)}
    (save_file if suffix == "safetensors" else torch.save)(small, tmp_path / f"file.{suffix}")
    (tensor,) = read_tensors(tmp_path / f"file.{suffix}").values()
    assert tensor.dtype == dtype
    assert tensor.float().tolist() == [0.5, -2.0, 0.0]


def test_tensors_in_nested_dicts_have_dotted_names(tmp_path: Path) -> None:
    content: dict[object, object] = {"state_dict": {"model": TENSORS}, "epoch": 3, 7: TENSORS, "deep": {}}
    content["deep"] = content  # a pickle can hold itself
    torch.save(content, tmp_path / "file.pt")
    assert set(read_tensors(tmp_path / "file.pt")) >= {"state_dict.model.a.weight", "state_dict.model.b"}


def archive(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in names:
            file.writestr(name, b"x")
    return stream.getvalue()


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        file.addfile(tarfile.TarInfo("vae"), io.BytesIO(b""))
    return stream.getvalue()


def array() -> bytes:
    np.save(stream := io.BytesIO(), np.zeros(2))
    return stream.getvalue()


def arrays() -> bytes:
    np.savez(stream := io.BytesIO(), a=np.zeros(2))
    return stream.getvalue()


def image() -> bytes:
    Image.new("RGB", (2, 2)).save(stream := io.BytesIO(), "png")
    return stream.getvalue()


class Doubled(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def program() -> bytes:
    torch.export.save(torch.export.export(Doubled(), (torch.ones(2),)), stream := io.BytesIO())
    return stream.getvalue()


FOREIGN: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "is empty: fetch it again"),
    "LFS pointer": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 334643276\n",
        "is a Git LFS pointer, which stands for a file that was not downloaded: run `git lfs pull` in its repository",
    ),
    "web page": (lambda: b"<!DOCTYPE html>\n<html><head>", "is a web page: fetch it again, by the address of the file"),
    "login page": (lambda: b"\n <html lang='en'>", "is a web page: "),
    "XML": (lambda: b'<?xml version="1.0"?><net>', "is an XML file: give the model that it was made from"),
    "GGUF": (lambda: b"GGUF\x03\0\0\0", "is a GGUF file, whose tensors are quantised: give the safetensors file"),
    "ONNX": (lambda: b"\x08\x08\x12\x07pytorch\x1a\x052.13", "is an ONNX model: give the model that it was made from"),
    "torch.export": (program, "is a program of torch.export (.pt2): give the model that it was made from"),
    "TorchScript": (lambda: archive("vae/constants.pkl", "vae/data.pkl", "vae/code/a.py"), "is a TorchScript program"),
    "NumPy": (array, "is a NumPy array: give the model"),
    "NumPy archive": (arrays, "is a NumPy archive (.npz): give the model"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n", "is an HDF5 file: "),
    "image": (image, "is an image: give the file of a model"),
    "zip": (lambda: archive("vae/config.json"), "is a zip archive: unpack it first"),
    "gzip": (lambda: gzip.compress(b"x"), "is an archive: unpack it first"),
    "tar": (tar, "is an archive: unpack it first"),
    "JSON": (
        lambda: json.dumps({"weight_map": {}}).encode(),
        "is a JSON file: give the folder or the",
    ),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".dat"])
@pytest.mark.parametrize("name", FOREIGN)
def test_what_holds_no_tensors_is_named(name: str, suffix: str, tmp_path: Path) -> None:
    make, message = FOREIGN[name]
    file = tmp_path / f"file{suffix}"
    file.write_bytes(make())
    with pytest.raises(ModelError) as caught:
        read_tensors(file)
    assert str(caught.value).startswith(f"{file} {message}")
    assert "\n" not in str(caught.value)


def test_bytes_that_mean_nothing_are_refused_by_the_suffix(tmp_path: Path) -> None:
    for suffix, message in {
        ".dat": "has an unsupported file type; supported: .safetensors",
        ".pt": "is not a complete file",
    }.items():
        (tmp_path / f"file{suffix}").write_bytes(b"something else")
        with pytest.raises(ModelError, match=message):
            read_tensors(tmp_path / f"file{suffix}")


def test_a_whole_module_is_asked_for_as_its_state_dict(tmp_path: Path) -> None:
    torch.save(Doubled(), tmp_path / "file.pt")
    with pytest.raises(
        ModelError, match=r"holds a tests\.models\.test_tensor_file\.Doubled, expected a dict of tensors"
    ):
        read_tensors(tmp_path / "file.pt")
