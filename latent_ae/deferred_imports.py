"""Imports that wait for their first use: what diffusers' autoencoders bring along, and no program here calls.

`from diffusers import AutoencoderKL` runs the code of all of diffusers' UNets and transformers, and imports
transformers, scipy and torch's compiler for them: half of the time that encoding a small image takes.

It is for programs, whose process is their own: importing the library defers nothing.
"""

import sys
import threading
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

from latent_ae.module_loaders import load_by

PACKAGES = (
    # of diffusers, which needs some of their modules, while the packages import all; the others are lazy by themselves
    "diffusers.hooks",
    "diffusers.models.transformers",
    "diffusers.models.unets",
    # of diffusers' schedulers, which call them for a schedule or two
    "scipy.integrate",
    "scipy.stats",
)
_WITHOUT = (
    "diffusers.utils.import_utils",
    "diffusers.quantizers.pipe_quant_config",
    # with functions that they keep torch's compiler from looking into
    "diffusers.utils.torch_utils",
    "diffusers.hooks.group_offloading",
    "diffusers.pipelines.pipeline_utils",
)
"""modules that do without transformers, and without torch's compiler until something is compiled"""
_COMPILER = "torch._dynamo"
_allowed: list[Any] = []
"""what diffusers lets the compiler leave alone, until it is imported"""


def defer_imports() -> None:
    """Defer this process's imports from here on; modules that it has already stay as they are.

    What is deferred is imported when something is first taken from it, and is then what it always is. Diffusers takes
    transformers, which it imports for the text encoders of pipelines, for missing.
    """
    load_by(
        dict.fromkeys(PACKAGES, _DeferredPackage)
        | dict.fromkeys(_WITHOUT, _Without)
        | {_COMPILER: _Compiler, "gradio.component_meta": _WithoutStubs}
    )


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


class _Without(SourceFileLoader):
    """Runs a module's code with stand-ins for what it does without, unless that has been imported."""

    def exec_module(self, module: ModuleType) -> None:
        compiler = ModuleType(_COMPILER)
        vars(compiler).update(allow_in_graph=_allow_in_graph, disable=_disable)
        # None is how Python marks what cannot be imported.
        stand_ins = {
            name: each for name, each in (("transformers", None), (_COMPILER, compiler)) if name not in sys.modules
        }
        sys.modules.update(stand_ins)  # type: ignore[arg-type]  # None is allowed there, says Python
        try:
            super().exec_module(module)
        finally:
            for name in stand_ins:
                del sys.modules[name]


def _allow_in_graph(decorated: Any) -> Any:
    _allowed.append(decorated)
    return decorated


def _disable(decorated: Any = None, *_: object, **__: object) -> Any:
    """Nothing, as it is for parts of diffusers that no program here runs."""
    return _disable if decorated is None else decorated


class _Compiler(SourceFileLoader):
    """Tells the compiler what it was not told before."""

    def exec_module(self, module: Any) -> None:
        super().exec_module(module)
        for each in _allowed:
            module.allow_in_graph(each)
        _allowed.clear()


class _WithoutStubs(SourceFileLoader):
    """Gradio compares, and writes, a file for editors for each of its components, which takes a third of its import."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        vars(module)["create_or_modify_pyi"] = lambda *_: None
