"""Make diffusers and lpips importable beside a torchvision whose compiled operators do not load.

A CPU-only torch with PyPI's torchvision is common: torchvision's `_C.so` then needs CUDA libraries that are missing,
its operators are not registered, and `import torchvision` fails with "operator torchvision::nms does not exist",
because it attaches a shape function to an operator that was not declared. What this project uses of torchvision
(network definitions, weight addresses) is Python code, so it is enough to declare the two operators. Calling them
still raises.

They are declared when torchvision is imported, so that programs without torch do not wait for it.
"""

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from latent_ae.module_loaders import load_by

if TYPE_CHECKING:
    import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: "list[torch.library.Library]" = []  # a Library removes its operators when it is collected


def guard_torchvision() -> None:
    """Call `make_torchvision_importable` before torchvision's own code runs, whoever imports it first."""
    load_by({"torchvision": _Guarded})


class _Guarded(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        make_torchvision_importable()
        super().exec_module(module)


def make_torchvision_importable() -> bool:
    """Declare torchvision's operators if its compiled part cannot be loaded.

    Returns True if they were declared; False if torchvision works, is absent, or was handled before.
    """
    import torch  # noqa: PLC0415  # takes seconds

    spec = importlib.util.find_spec("torchvision")
    if _declared or spec is None or spec.origin is None or hasattr(torch.ops.torchvision, "nms"):
        return False
    if _compiled_part_loads(Path(spec.origin).parent):
        return False
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)
    return True


def _compiled_part_loads(package: Path) -> bool:
    compiled = [*package.glob("_C*.so"), *package.glob("_C*.pyd"), *package.glob("_C*.dylib")]
    if not compiled:
        return False
    import torch  # noqa: PLC0415

    try:
        torch.ops.load_library(str(compiled[0]))
    except OSError:
        return False
    return True
