"""Pickles of trainers: the tensors are read, everything foreign is inert, and nothing of it runs."""

import argparse
import collections
import enum
import functools
import importlib
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latent_ae.models.errors import ModelError
from latent_ae.models.pickled import StandIn, unpickled
from latent_ae.models.tensor_file import read_tensors

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.nn.Parameter(torch.ones(2))}


def saved(file: Path, content: object, *, legacy: bool = False) -> Path:
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file


def assert_read(file: Path) -> None:
    got = read_tensors(file)
    expected = {f"state_dict.{name}": tensor for name, tensor in TENSORS.items()}
    assert {name for name in got if name.startswith("state_dict.")} == set(expected)
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())


# --------------------------------------------------------------------------------------------------- a trainer's pickle


class _AttributeDict(dict[str, Any]):
    """Lightning's hyperparameters: a dict by another name."""

    def __getattr__(self, key: str) -> Any:
        return self[key]


class _ListConfig(list[Any]):
    pass


class _Callback:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class _Slotted:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 3


class _Mode(enum.Enum):
    MIN = "min"


class _Point(collections.namedtuple("_Point", "x y")):
    __slots__ = ()


FOREIGN_CLASSES = (_AttributeDict, _ListConfig, _Callback, _Slotted, _Mode, _Point)


@pytest.fixture
def trainer() -> Iterator[types.ModuleType]:
    """A library whose classes are in a checkpoint, and which is not there when that is read."""
    module = types.ModuleType("pytorch_lightning_of_old")
    for kind in FOREIGN_CLASSES:
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    sys.modules[module.__name__] = module
    yield module
    sys.modules.pop(module.__name__, None)
    for kind in FOREIGN_CLASSES:
        kind.__module__ = __name__


def checkpoint() -> dict[str, Any]:
    return {
        "state_dict": TENSORS,
        "epoch": 3,
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {_Callback: {"best_model_score": torch.ones(1), "dirpath": pathlib.PurePosixPath("/somewhere")}},
        "hyper_parameters": _AttributeDict(lr=1e-4, nested=_AttributeDict(betas=(0.5, 0.9)), widths=_ListConfig([1])),
        "loops": [_Callback(inner=_Slotted(), when=timedelta(1), mode=_Mode.MIN, point=_Point(1, 2))],
        "arguments": argparse.Namespace(config="x.yaml"),
        "scheduler": functools.partial(max, 3),
        "counts": collections.defaultdict(int, {"a": 1}),
        "score": np.float64(3.0),
        "array": np.arange(3),
        "dtype": np.dtype("float32"),
        "names": {"a", "b"},
        "frozen": frozenset({1}),
        "range": range(3),
        "complex": 1j,
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_the_tensors_of_a_trainers_checkpoint(legacy: bool, trainer: types.ModuleType, tmp_path: Path) -> None:
    file = saved(tmp_path / "last.ckpt", checkpoint(), legacy=legacy)
    del sys.modules[trainer.__name__]
    assert_read(file)
    content = unpickled(file)
    assert isinstance(content, dict)
    assert isinstance(content["loops"][0], StandIn)
    assert type(content["loops"][0]) is not _Callback
    assert vars(content["loops"][0]) == {}
    assert content["hyper_parameters"]["lr"] == 1e-4


@pytest.mark.parametrize("name", [name for name in checkpoint() if name not in ("state_dict", "epoch")])
def test_each_kind_of_object_by_itself(name: str, trainer: types.ModuleType, tmp_path: Path) -> None:
    file = saved(tmp_path / "last.ckpt", {"state_dict": TENSORS, name: checkpoint()[name]})
    del sys.modules[trainer.__name__]
    assert_read(file)


# -------------------------------------------------------------------------------------------------- nothing of it runs


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class Ran(Exception):  # noqa: N818 - it ran
    pass


class Armed:
    """Runs when it is made, filled, or called."""

    def __new__(cls, *_arguments: object) -> "Armed":
        raise Ran

    def __setstate__(self, state: object) -> None:
        raise Ran

    def __call__(self) -> None:
        raise Ran


class Filled:
    """Pickles as a made and filled object of an armed class."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (object.__new__, (Armed,), {"a": 1})


def payloads(marker: Path) -> dict[str, Any]:
    touch = f"open({str(marker)!r}, 'w')"
    return {
        "eval": Calls(eval, touch),
        "exec": Calls(exec, touch),
        "open": Calls(open, str(marker), "w"),
        "subprocess": Calls(subprocess.Popen, ["touch", str(marker)]),
        "shutil": Calls(shutil.copyfile, __file__, str(marker)),
        "import": Calls(importlib.import_module, "this"),
        "getattr": Calls(getattr, Calls(importlib.import_module, "os"), "system"),
        "torch.load": Calls(torch.load, str(marker), None, None),
        "torch.save": Calls(torch.save, {}, str(marker)),
        "numpy": Calls(np.save, str(marker), 1),
        "pickle": Calls(pickle.loads, pickle.dumps(Calls(eval, touch))),
        "partial": Calls(functools.partial, eval, touch),
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", payloads(Path("marker")))
def test_nothing_that_a_pickle_asks_for_is_run(name: str, legacy: bool, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    file = saved(tmp_path / "vae.ckpt", {"state_dict": TENSORS, "more": payloads(marker)[name]}, legacy=legacy)
    assert_read(file)
    assert not marker.exists()


@pytest.mark.parametrize("function", [os.system, os.remove, sys.exit], ids=["system", "remove", "exit"])
def test_names_of_the_system_are_refused(function: Callable[..., Any], tmp_path: Path) -> None:
    file = saved(tmp_path / "vae.ckpt", {"state_dict": TENSORS, "more": Calls(function, "x")})
    with pytest.raises(ModelError, match=r"is a pickle that asks for (posix|sys)\.\w+, which no file of tensors needs"):
        read_tensors(file)


def test_a_foreign_object_is_not_called(tmp_path: Path) -> None:
    file = saved(tmp_path / "vae.ckpt", {"state_dict": TENSORS, "more": Calls(pytest.fail, "it was executed")})
    with pytest.raises(ModelError, match=r"is a pickle that asks for _pytest\.outcomes\._Fail, which no"):
        read_tensors(file)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_of_another_protocol_or_without_torch_is_refused(protocol: int, tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "vae.pt", pickle_protocol=5)
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps({"x": Calls(pytest.fail, "executed")}, protocol=protocol))
    for file in (tmp_path / "vae.pt", tmp_path / "plain.ckpt"):
        with pytest.raises(ModelError, match="convert it to safetensors where you trust it"):
            read_tensors(file)


def test_what_torch_may_take_is_as_before(tmp_path: Path) -> None:
    before = torch.serialization.get_safe_globals()
    read_tensors(saved(tmp_path / "vae.ckpt", {"state_dict": TENSORS, "more": Calls(eval, "1")}))
    assert torch.serialization.get_safe_globals() == before
    with pytest.raises(pickle.UnpicklingError, match="GLOBAL eval was not an allowed global"):
        torch.load(tmp_path / "vae.ckpt", weights_only=True)
