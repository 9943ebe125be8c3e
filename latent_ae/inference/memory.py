"""How much memory a piece of work takes at its peak, told before it starts.

The side runs once on torch's `meta` device, where tensors have shapes and no contents, and the bytes that live at the
same time are counted: this covers any architecture. What kernels take besides is added operation by operation.
"""

import copy
import weakref
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import psutil  # type: ignore[import-untyped]  # its types are a package of their own
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latent_ae.device import multiplies_bf16
from latent_ae.errors import UserError

_NO_MEMORY = ("can't allocate memory", "not enough memory")
"""in the RuntimeError of torch's allocator for the CPU"""
_LIMITS = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""of cgroup v2 and v1: the controller, which v1 has a folder for; files with the limit and the use; the cache's name"""


class DoesNotFit(UserError):  # noqa: N818 - a fact about an image and a machine
    """Work that would take more memory than there is; nothing of it was started."""

    def __init__(
        self, what: str, needed: int, available: int, advice: str, *, largest: tuple[int, int] | None = None
    ) -> None:
        """`what` takes so many bytes, so many are free, and `advice` says what to do.

        `largest` is the height and width in pixels of an image of these proportions that would fit, if one is known.
        """
        self.needed = needed
        self.available = available
        self.largest = largest
        super().__init__(f"{what} would take about {amount(needed)} of memory, {amount(available)} are free: {advice}")


@dataclass(frozen=True)
class Plan:
    """What an image of some size would take, by prediction, on top of the loaded model."""

    tiles: int
    """1 where it goes through whole"""
    encode_bytes: int
    decode_bytes: int
    encode_seconds: float
    decode_seconds: float
    """by what a small image takes here, and attention, which grows with the square of the pixels"""


def peak_bytes(
    module: nn.Module,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    channels_last: bool,
    device: str = "cpu",
    in_strips: bool = False,
) -> int:
    """Bytes that `module` takes at its peak for an input of this shape, input and output with it, weights without.

    `in_strips`: it keeps activations in bands of some MiB each.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    emulated = dtype == torch.bfloat16 and device == "cpu" and not multiplies_bf16()
    counter = _Counter(reorders=not channels_last, emulated=emulated)
    # In inference mode a convolution reaches the counter under another name, and its scratch would not be counted.
    with torch.inference_mode(False), torch.no_grad():
        weights = {id(weight): nn.Parameter(weight.to("meta")) for weight in module.parameters()}
        shapes = copy.deepcopy(module, weights)  # a copy, as another thread may be computing with the module
        inputs = torch.empty(shape, dtype=dtype, device="meta", memory_format=layout)
        counter.hold(inputs)
        with _FusedKernels(), counter:
            outputs = shapes(inputs)
        del outputs
    return counter.peak + _waste(counter.peak, device, in_strips=in_strips)


def available_bytes(
    device: torch.device, *, cgroup: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")
) -> int:
    """Memory that is free for tensors now: on the GPU, or in this machine within the limits that hold for the process.

    Args:
        device: of the tensors.
        cgroup: where the limits of groups of processes lie.
        groups: the file that says in which the process is.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + kept
    return min([int(psutil.virtual_memory().available), *_left_in_groups(cgroup, groups)])


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no more memory, on the GPU or for the CPU."""
    full = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return full or (isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY))


def amount(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


class _Counter(TorchDispatchMode):
    """Counts the storages that are alive, and the scratch memory of whatever runs."""

    def __init__(self, *, reorders: bool, emulated: bool) -> None:
        """`emulated`: bfloat16 without instructions for it, for which torch unfolds the input of a convolution."""
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.reorders = reorders
        self.emulated = emulated
        self.live = 0
        self.peak = 0
        self._known = weakref.WeakSet[torch.UntypedStorage]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler, to keep it out of what follows

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        each_value = torch.Tag.pointwise in func.tags and func is not torch.ops.aten.clone.default
        if each_value and isinstance(args[0], Tensor) and args[0].is_meta:
            outputs = _pointwise(func, args, kwargs or {})
        else:
            outputs = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(outputs):
            if isinstance(leaf, Tensor):
                self.hold(leaf)
        if func is torch.ops.aten.convolution.default:
            scratch = _bytes(args[1])
            if self.reorders:
                scratch += _bytes(args[0]) + _bytes(outputs)
            if self.emulated:
                columns = args[1][0].numel() if args[1][0, 0].numel() > 1 else 0  # C·k·k for each place of the output
                scratch += columns * _bytes(outputs[:, 0])
            self.peak = max(self.peak, self.live + scratch)
        return outputs

    def hold(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is gone."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.live -= size


def _pointwise(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The result of what is done to each value, which torch's meta device needs its compiler for."""
    if operation._schema.is_mutable:
        result: Tensor = kwargs.get("out", args[0])
        return result
    return torch.empty_like(max((each for each in args if isinstance(each, Tensor)), key=_bytes))


class _FusedKernels(TorchFunctionMode):
    """What real kernels do at once and the meta device in parts: attention, for which it would build the matrix of all
    pairs, normalisations and products.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            query, _, value, *_ = args
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        if func is F.linear:
            return args[0].new_empty(*args[0].shape[:-1], args[1].shape[0])
        if func in (F.group_norm, F.batch_norm):
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


def _waste(peak: int, device: str, *, in_strips: bool = False) -> int:
    """What the allocator keeps without need.

    glibc takes blocks below 32 MiB from a heap that does not shrink while later blocks lie above: measured, up to
    1.25 times the peak of small work and up to 150 MiB of large, 260 in strips, whose blocks have many sizes. cuDNN's
    workspaces and the caching allocator's splinters are not known beforehand; a quarter is an allowance, not a
    measurement.
    """
    return peak // 4 if device == "cuda" else min(5 * peak // 4, (320 if in_strips else 160) * 2**20)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _left_in_groups(cgroup: Path, groups: Path) -> list[int]:
    """What every limit on the process leaves, of its own group and of those above it; file cache counts as free.

    A container may see its own group as the top of the tree, under another name than `groups` says: the top is looked
    at in any case.
    """
    lines = groups.read_text(encoding="utf-8").splitlines() if groups.exists() else []
    memberships = [line.split(":", 2)[1:] for line in lines]
    left = []
    for controller, limit, used, cache in _LIMITS:
        path = next((path for controllers, path in memberships if controller in controllers.split(",")), "/")
        own = PurePath(path.lstrip("/"))
        for folder in (cgroup / controller / group for group in (own, *own.parents)):
            if not (folder / limit).exists() or not (most := _text(folder / limit)).strip().isdigit():
                continue
            statistics = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
            left.append(max(0, int(most) - int(_text(folder / used)) + int(statistics.get(cache, 0))))
    return left


def _text(file: Path) -> str:
    return file.read_text(encoding="ascii")
