"""What a pickle by torch.save holds, without running anything that it asks for.

torch's own restricted unpickler reads it. That calls the few functions that rebuild tensors, and knows no other names.
A trainer's checkpoint has many: callbacks, settings, NumPy scalars. Each gets a stand-in here, which can be called and
filled with anything and keeps nothing; names in the modules sys, os, posix and nt torch refuses in any case.
"""

import re
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.serialization import safe_globals

from latent_ae.models.errors import ModelError

_MOST_NAMES = 500
"""foreign names in a file, above which it is given up"""
_UNKNOWN = re.compile(r"GLOBAL (\S+) was not an allowed")
_FILLED = re.compile(r"Can only (SETITEM|append|extend).*but got <class '([^']+)'>")
_ASKED = re.compile(r"GLOBAL (\S+)|unrecognized function <(\S+) object")
"""what torch's refusals say: a name it does not know, a foreign dict or list, any name or object that is called"""
_ONE_AT_A_TIME = threading.Lock()
"""torch keeps the names it may take for the whole process"""


class StandIn:
    """An object of a foreign class, without anything of it."""

    def __init__(self, *_arguments: object, **_named: object) -> None:
        """Takes what the class was called with."""

    def __new__(cls, *_arguments: object, **_named: object) -> Any:
        """Takes what the class was made with."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Takes what the object was filled with."""


def unpickled(path: Path) -> object:
    """The content of a pickle, with tensors as they are and stand-ins for objects of foreign classes.

    Raises ModelError if it cannot be read, or asks for what only a program would.
    """
    stand_ins: dict[str, type] = {}
    while len(stand_ins) < _MOST_NAMES:
        try:
            return _loaded(path, stand_ins)
        except Exception as error:  # bytes that are no pickle of tensors can fail in any way
            name, base = _wanted(str(error))
            if name is None or stand_ins.get(name, object) is base or issubclass(stand_ins.get(name, object), base):
                raise _refused(path, error) from error
            stand_ins[name] = _stand_in(name, base)
    raise ModelError(f"{path} is a pickle that asks for more than {_MOST_NAMES} names: convert it to safetensors")


def type_name(content: object) -> str:
    """The name of an object's class, the foreign one's for a stand-in."""
    kind = type(content)
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(content, StandIn) else kind.__name__


def _loaded(path: Path, stand_ins: dict[str, type]) -> object:
    names: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (kind, name) for name, kind in stand_ins.items()
    ]
    with _ONE_AT_A_TIME, safe_globals(names), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the pickle's protocol, before it is refused
        if zipfile.is_zipfile(path) and path.suffix.lower() != ".safetensors":  # torch goes by that suffix
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)


def _wanted(refusal: str) -> tuple[str | None, type]:
    """The name that needs a stand-in, and what it must be able to do."""
    if filled := _FILLED.search(refusal):
        return filled[2], OrderedDict if filled[1] == "SETITEM" else list
    if unknown := _UNKNOWN.search(refusal):
        # torch leaves out the module of what is built in
        return unknown[1] if "." in unknown[1] else f"builtins.{unknown[1]}", StandIn
    return None, StandIn


def _stand_in(path: str, base: type) -> type:
    """A class of a foreign name. torch fills dicts and lists only of exact types, which calling it then gives."""
    module, _, name = path.rpartition(".")
    if base is StandIn:
        return type(name, (StandIn,), {"__module__": module})
    return type(name, (base,), {"__module__": module, "__new__": lambda _cls, *_arguments: base()})


def _refused(path: Path, error: Exception) -> ModelError:
    if foreign := _ASKED.search(str(error)):
        return ModelError(
            f"{path} is a pickle that asks for {foreign[1] or foreign[2]}, which no file of tensors needs: convert it "
            "to safetensors where you trust it"
        )
    return ModelError(
        f"{path} is not a complete file of tensors by torch.save ({type(error).__name__}): fetch it again, or convert "
        "it to safetensors where you trust it"
    )
