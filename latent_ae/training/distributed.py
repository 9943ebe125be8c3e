"""Starting Accelerate so that the processes that were asked for train one model, or none.

Two launches fail silently without this: `accelerate launch --cpu --num_processes 2` starts a single process, and
`torchrun --nproc_per_node 2` on a machine without a GPU starts two that know nothing of each other.
"""

import logging
import os
import sys
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from latent_ae.errors import UserError

T = TypeVar("T")
_groups: list[object] = []
"""the process group, kept to the end of the process: else DistributedDataParallel would be the last to hold it and
take it apart under the GIL, waiting for a thread of gloo's that may wait for the GIL. With torch 2.13 runs on a busy
machine hung as they ended. Python's own handle, which is what is kept, lets go of the GIL first"""


class ProcessGroupError(UserError):
    """The processes that were asked for do not form one group; the message says what to type."""


def start_accelerator(*, mixed_precision: str | None, accumulation: int) -> Accelerator:
    """An Accelerator over all the processes that the launcher was asked for.

    On a CPU the processes share its cores, which the launchers leave idle but for one thread each.
    Forms the gloo group itself where torchrun was used on a machine without an accelerator.
    An Apple GPU is left alone: sums over a batch are kept in float64, which it lacks.
    Raises ProcessGroupError if fewer processes came together than were asked for, UserError if the device does not
    have the precision.
    """
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted == 1 and _launcher_dropped_processes():
        raise ProcessGroupError(
            "several CPU processes were asked for but `accelerate launch --cpu` started only this one: "
            f"use `torchrun --nproc_per_node N {os.path.relpath(sys.argv[0])} ...`, which forms the group"
        )
    device = _device_type()
    try:
        accelerator = _accelerator(
            mixed_precision, accumulation, cpu=device == "mps" or (wanted > 1 and device == "cpu")
        )
    except ValueError as error:  # a precision that the device does not have
        raise UserError(f"train.mixed_precision {mixed_precision}: {error}") from None
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate would say fp16 and train in float32.
        raise UserError(
            "train.mixed_precision fp16 (or that of accelerate_config.yaml) needs a GPU, got the cpu: give bf16 or no"
        )
    if accelerator.num_processes != wanted:
        raise ProcessGroupError(
            f"{wanted} processes were asked for (WORLD_SIZE) but {accelerator.num_processes} formed a group: "
            f"start with `torchrun --nproc_per_node N {os.path.relpath(sys.argv[0])} ...` or correct "
            "accelerate_config.yaml"
        )
    if wanted > 1:
        _groups.append(torch.distributed.group.WORLD)
    if not accelerator.is_main_process:
        logging.disable(logging.INFO)
    if accelerator.device.type == "cpu" and _launcher_chose_one_thread():
        torch.set_num_threads(max(1, _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    return accelerator


def _accelerator(mixed_precision: str | None, accumulation: int, *, cpu: bool) -> Accelerator:
    return Accelerator(
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=accumulation,
        cpu=True if cpu else None,
        # Steps, not epochs, are what is counted; there is no end of a loader to synchronise at.
        step_scheduler_with_optimizer=False,
    )


def describe_processes(accelerator: Accelerator) -> str:
    """Where the run takes place, in a line."""
    on_cpu = accelerator.device.type == "cpu"
    threads = f", {torch.get_num_threads()} threads each" if on_cpu else ""
    instead = " (not the Apple GPU, which lacks float64)" if on_cpu and _device_type() == "mps" else ""
    processes = "1 process" if accelerator.num_processes == 1 else f"{accelerator.num_processes} processes"
    return f"{processes} on {accelerator.device.type}{instead}{threads}, mixed precision {accelerator.mixed_precision}"


def _device_type() -> str:
    """Of what this machine has to compute on."""
    device = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if device is None else device.type


def sum_over_processes(values: list[float], accelerator: Accelerator) -> list[float]:
    """Each value summed over all processes, in float64, by one collective."""
    if accelerator.num_processes == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    torch.distributed.all_reduce(tensor)
    summed: list[float] = tensor.tolist()
    return summed


def sum_tensors_over_processes(tensors: dict[str, Tensor], accelerator: Accelerator) -> dict[str, Tensor]:
    """Each float64 tensor summed over all processes, by one collective; on the CPU."""
    if not tensors:
        return {}
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors.values()])
    if accelerator.num_processes > 1:
        torch.distributed.all_reduce(flat)
    pieces = flat.cpu().split([tensor.numel() for tensor in tensors.values()])
    return {name: piece.reshape(tensors[name].shape) for name, piece in zip(tensors, pieces, strict=True)}


def gather_from_processes(value: T, accelerator: Accelerator) -> list[T]:
    """One picklable object of each process, in the order of the ranks, on every process."""
    if accelerator.num_processes == 1:
        return [value]
    gathered = [value] * accelerator.num_processes
    torch.distributed.all_gather_object(gathered, value)
    return gathered


def _cores() -> int:
    """Processor cores that this process may use; on macOS, which has no affinity, all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _launcher_chose_one_thread() -> bool:
    # Both launchers set one thread a process unless told otherwise, however many cores there are.
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    return launched and os.environ.get("OMP_NUM_THREADS") == "1"


def _launcher_dropped_processes() -> bool:
    # Accelerate's launcher sets the meeting point only for several processes, and the CPU path then starts one.
    started_by_accelerate = "ACCELERATE_USE_CPU" in os.environ
    return started_by_accelerate and "MASTER_PORT" in os.environ and "RANK" not in os.environ
