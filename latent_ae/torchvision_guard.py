"""Keeps a torchvision whose compiled operators do not load from taking diffusers and lpips with it.

A CPU-only torch beside the package index's torchvision is common: torchvision's `_C.so` then wants CUDA libraries that
are not there, its operators are never registered, and `import torchvision` dies with "operator torchvision::nms does
not exist" because torchvision attaches a shape function to an operator that was never declared. Everything this
project uses of torchvision (network definitions, weight addresses) is plain Python, so declaring the two operators is
enough. Calling them still raises, as it must.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a Library takes its operators along when it is collected


def make_torchvision_importable() -> bool:
    """Declare torchvision's operators if its compiled part cannot be loaded.

    Returns True if they had to be declared; False if torchvision is whole, absent, or already looked after.
    """
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
    try:
        torch.ops.load_library(str(compiled[0]))
    except OSError:
        return False
    return True
