"""Imports that wait for their first use: what diffusers' autoencoders bring along, and no program here calls.

`from diffusers import AutoencoderKL` runs the code of all of diffusers' autoencoders, UNets and transformers, and
imports transformers, scipy and torch's compiler for them: half of the time that encoding a small image takes. After
`defer_imports` they are imported when something is first taken from them, and then as they always are. What is
deferred stays usable, `torch.compile` included; diffusers alone takes transformers for missing.

It is for programs, whose process is their own: importing the library defers nothing.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import wraps
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

PACKAGES = (
    # of diffusers, which needs some of their modules, while the packages import all; the others are lazy by themselves
    "diffusers.hooks",
    "diffusers.models.autoencoders",
    "diffusers.models.transformers",
    "diffusers.models.unets",
    # of diffusers' schedulers, which call them for a schedule or two
    "scipy.integrate",
    "scipy.stats",
)
_COMPILER = "torch._dynamo"
_allowed: list[Callable[..., object]] = []
"""what diffusers lets the compiler leave alone, until it is imported"""


def defer_imports() -> None:
    """Defer this process's imports from here on; modules that it has already stay as they are."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


class _Finder:
    """Finds the modules that are named here as Python does, to be loaded by a loader of this file. No others."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        loader = _DeferredPackage if name in PACKAGES else _Surrounded if name in _AROUND else None
        if loader is None or (spec := PathFinder.find_spec(name, path, target)) is None:
            return None
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = loader(spec.loader.name, spec.loader.path)
        return spec


class _DeferredPackage(SourceFileLoader):
    """Runs a package's code when it is asked for a name that it does not have; its modules are imported without."""

    def exec_module(self, module: ModuleType) -> None:
        lock, run = threading.RLock(), super().exec_module
        running = False

        def first_use(name: str) -> Any:
            nonlocal running
            # What looks at all modules asks for names like __warningregistry__, which no package defines.
            if not name.startswith("__") or name == "__all__":
                with lock:  # another thread waits until the package is whole
                    if not running and "__getattr__" in vars(module):
                        running = True
                        try:
                            run(module)
                            del module.__getattr__
                        finally:
                            running = False
            if name in vars(module):
                return vars(module)[name]
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}", name=name, obj=module)

        vars(module)["__getattr__"] = first_use


class _Surrounded(SourceFileLoader):
    """Runs a module's code inside of what _AROUND names for it."""

    def exec_module(self, module: ModuleType) -> None:
        with _AROUND[module.__name__](module):
            super().exec_module(module)


@contextmanager
def _transformers_taken_for_missing(diffusers: Any) -> Iterator[None]:
    """Diffusers imports transformers for the text encoders of pipelines, which no program here has."""
    yield
    if hasattr(diffusers, "_transformers_available"):
        diffusers._transformers_available = False


@contextmanager
def _transformers_hidden(_: ModuleType) -> Iterator[None]:
    with _in_place("transformers", None):
        yield


@contextmanager
def _compiler_deferred(_: ModuleType) -> Iterator[None]:
    """With the two decorators that diffusers takes from torch's compiler, as they are without importing it."""
    decorators = ModuleType(_COMPILER)
    vars(decorators).update(allow_in_graph=_allow_in_graph, disable=_disable)
    with _in_place(_COMPILER, decorators):
        yield


def _allow_in_graph(function: Callable[P, T]) -> Callable[P, T]:
    _allowed.append(function)
    return function


def _disable(function: Callable[P, T] | None = None, *args: Any, **kwargs: Any) -> Callable[..., Any]:
    if function is None:
        return lambda later: _disable(later, *args, **kwargs)
    disabled: list[Callable[P, T]] = []

    @wraps(function)
    def call(*called: P.args, **named: P.kwargs) -> T:
        if _COMPILER not in sys.modules:  # nothing to disable
            return function(*called, **named)
        if not disabled:
            disabled.append(sys.modules[_COMPILER].disable(function, *args, **kwargs))
        return disabled[0](*called, **named)

    return call


@contextmanager
def _compiler_kept_out_later(torch_compile: Any) -> Iterator[None]:
    """Torch imports its compiler to keep it out of some functions of its own, of the meta device's above all."""
    yield
    keep_out = torch_compile._disable_dynamo

    def later(function: Callable[P, T] | None = None, recursive: bool = True) -> Any:
        if function is not None:
            with suppress(AttributeError):  # of what takes no attributes
                # where torch keeps the function that it calls instead
                function.__dynamo_disable = _disable(function, recursive, wrapping=False)  # type: ignore[attr-defined]  # torch's
        return keep_out(function, recursive)

    torch_compile._disable_dynamo = later


@contextmanager
def _told_what_is_allowed(compiler: Any) -> Iterator[None]:
    yield
    for function in _allowed:
        compiler.allow_in_graph(function)
    _allowed.clear()


@contextmanager
def _without_stubs(component_meta: Any) -> Iterator[None]:
    """Gradio compares, and writes, a file for editors for each of its components, which takes a third of its import."""
    yield
    if hasattr(component_meta, "create_or_modify_pyi"):
        component_meta.create_or_modify_pyi = lambda *_: None


@contextmanager
def _in_place(name: str, stand_in: ModuleType | None) -> Iterator[None]:
    """With another module (None: with a missing one) of a name, unless it has been imported."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = stand_in  # type: ignore[assignment]  # None is how Python marks what cannot be imported
    try:
        yield
    finally:
        del sys.modules[name]


_AROUND: dict[str, Callable[[ModuleType], AbstractContextManager[None]]] = {
    "diffusers.utils.import_utils": _transformers_taken_for_missing,
    "diffusers.quantizers.pipe_quant_config": _transformers_hidden,
    "diffusers.utils.torch_utils": _compiler_deferred,
    "diffusers.hooks.group_offloading": _compiler_deferred,
    "diffusers.pipelines.pipeline_utils": _compiler_deferred,
    "torch._compile": _compiler_kept_out_later,
    _COMPILER: _told_what_is_allowed,
    "gradio.component_meta": _without_stubs,
}
