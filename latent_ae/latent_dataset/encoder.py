"""Runs a model's encoder side on batches of images, whose latents must depend on their batch alone.

How a convolution's sums are rounded depends on the number of threads. On a CPU each batch is therefore computed by one
thread, and as many batches at once as there are threads.
"""

import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from latent_ae.inference import Codec
from latent_ae.inference.batching import Runner
from latent_ae.inference.memory import amount, available_bytes, peak_bytes
from latent_ae.inference.precision import form_of
from latent_ae.inference.probe_image import photo_like
from latent_ae.inference.sides import EncoderSide, Side
from latent_ae.io.image import Pixels, from_tensor, to_tensor
from latent_ae.io.latent_file.header import SMALL_CODEBOOK
from latent_ae.io.latent_file.latents import DTYPES, Dtype
from latent_ae.latent_dataset.manifest import Kind, LatentDatasetError
from latent_ae.models import pad_to_factor

_STEP_PIXELS = 64


@dataclass(frozen=True)
class Encoded:
    """What is stored of B images of one size, on the CPU."""

    tensors: dict[str, Tensor]
    """mean and logvar [B,c,h,w], or indices [B,h,w]"""
    nonfinite: Tensor
    """[B] int64: number of values per image that are not finite in the encoder's output"""
    overflown: Tensor
    """[B] int64: number of values per image that are not finite only in the storage dtype"""


class Encoder:
    """Encodes batches of images of one size in the background.

    Use it as a context manager, which waits for running computations.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        precision: str,
        logvar: bool,
        dtype: Dtype,
        threads: int,
        memory_bytes: int | None = None,
    ) -> None:
        """
        Args:
            codec: of the model.
            precision: `exact`, `fp32`, `bf16` or `fp16`; see `precision.form_of`.
            logvar: keep the log-variance if there is one.
            dtype: storage type of floats.
            threads: number of batches at once on a CPU; without effect on the latents.
            memory_bytes: limit of the predicted memory of all batches together; None: what is free now.
        """
        self.codec = codec
        device = codec.model.device
        side = Side(EncoderSide(codec.model), form_of(precision, device))
        self._runner = Runner(
            side, channels=codec.channels, factor=codec.factor, tiling=codec.tiling, memory_bytes=memory_bytes
        )
        codes = torch.uint16 if (codec.codebook_size or 0) <= SMALL_CODEBOOK else torch.int32
        self.dtype = codes if codec.is_vq else DTYPES[dtype]
        """of what is stored"""
        self.kind: Kind = "vq_indices" if codec.is_vq else "moments" if logvar and _has_posterior(codec) else "mean"
        workers = threads if device.type == "cpu" else 1
        self._most = workers + 1  # one more, so that no worker waits for images
        self._pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        self._waiting: deque[tuple[Future[Encoded], int]] = deque()
        self._memory = available_bytes(device) if memory_bytes is None else memory_bytes
        self._predicted: dict[tuple[int, ...], int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, images: Sequence[Pixels]) -> "Future[Encoded]":
        """Images [H,W,C] of one size -> a future of their latents. Waits while too many batches are running.

        Raises LatentDatasetError if this batch alone needs more memory than there is.
        """
        batch = np.stack(images)
        needed = self._bytes(batch.shape)
        if needed > self._memory:
            images_of = "an image" if len(batch) == 1 else f"{len(batch)} images"
            raise LatentDatasetError(
                f"encoding {images_of} of {batch.shape[2]}x{batch.shape[1]} pixels at once would take about "
                f"{amount(needed)} of memory, {amount(self._memory)} are free: give --resolution, a smaller "
                "--batch_size, or --tile 512, an approximation"
            )
        while self._waiting and (
            len(self._waiting) >= self._most or needed + sum(size for _, size in self._waiting) > self._memory
        ):
            self._waiting.popleft()[0].exception()  # `result` of the future raises it
        future = self._pool.submit(self._encode, batch)
        self._waiting.append((future, needed))
        return future

    def _encode(self, images: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> Encoded:
        pixels = torch.stack([to_tensor(image) for image in images])
        with torch.no_grad():
            outputs = self._runner.run(pad_to_factor(pixels, self.codec.factor), lambda _: None)
            nonfinite = _bad_values(outputs)
            if self.codec.codebook is not None:
                # A search among codes has no use for NaN, and the image is left out.
                codes = self.codec.codebook.nearest(outputs.nan_to_num(0.0, 0.0, 0.0))
                return Encoded({"indices": codes.to(self.dtype)}, nonfinite, nonfinite * 0)
        mean, logvar = outputs.chunk(2, dim=1)
        tensors = {"mean": mean} | ({"logvar": logvar} if self.kind == "moments" else {})
        stored = {name: tensor.to(self.dtype).cpu() for name, tensor in tensors.items()}
        unstorable = torch.stack([_bad_values(tensor) for tensor in stored.values()]).sum(0)
        return Encoded(stored, nonfinite, torch.where(nonfinite > 0, 0, unstorable))

    def _bytes(self, shape: tuple[int, ...]) -> int:
        """Predicted memory of a batch, for sides rounded up: each prediction takes as long as a small image."""
        count, height, width, channels = shape
        tiling, factor = self.codec.tiling, self.codec.factor
        if tiling is not None:  # a tile at a time
            height, width = (factor * side for side in tiling.size(-(-height // factor), -(-width // factor)))
        step = math.lcm(factor, _STEP_PIXELS)
        size = (count, channels, -(-height // step) * step, -(-width // step) * step)
        if size not in self._predicted:
            side, form = self._runner.side, self._runner.side.form
            self._predicted[size] = peak_bytes(
                side.module, size, form.dtype, channels_last=form.channels_last, device=side.device.type
            )
        return self._predicted[size]


def _bad_values(values: Tensor) -> Tensor:
    return (~values.isfinite()).flatten(1).sum(1).cpu()


def _has_posterior(codec: Codec) -> bool:
    """Whether the model has a posterior: the latents of a plain autoencoder are deterministic."""
    picture = from_tensor(photo_like(codec.channels, 4 * codec.factor)[0])
    return codec.encode([picture], logvar=True)[0].logvar is not None
