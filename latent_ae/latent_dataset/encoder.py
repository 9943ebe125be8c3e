"""A model's encoder side over images whose latents must not depend on anything but their own batch.

A convolution's sums are split among threads, and so rounded, in a way that depends on their number. On a CPU each
batch is therefore computed by one thread, and as many batches at a time as there are threads.
"""

import copy
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
from latent_ae.inference.memory import amount, available_bytes, peak_bytes
from latent_ae.inference.precision import form_of
from latent_ae.inference.probe_image import photo_like
from latent_ae.inference.sides import EncoderSide, Side
from latent_ae.inference.tiling import run_tiled
from latent_ae.io.image import Pixels, from_tensor, to_tensor
from latent_ae.io.latent_file.header import SMALL_CODEBOOK
from latent_ae.io.latent_file.latents import DTYPES, Precision
from latent_ae.latent_dataset.manifest import Kind, LatentDatasetError
from latent_ae.models import pad_to_factor

_STEP_PIXELS = 64


@dataclass(frozen=True)
class Encoded:
    """What is stored of images [B] of one size, on the CPU."""

    tensors: dict[str, Tensor]
    """mean and logvar [B,c,h,w], or indices [B,h,w]"""
    nonfinite: Tensor
    """[B] int64: how many values of each are not finite as the encoder gave them"""
    overflown: Tensor
    """[B] int64: how many are not finite only as they are stored"""


class Encoder:
    """Batches of images of one size, in the background, in any order.

    To be used as a context manager, which waits for what is being computed.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        precision: str,
        logvar: bool,
        dtype: Precision,
        threads: int,
        memory_bytes: int | None = None,
    ) -> None:
        """
        Args:
            codec: of the model.
            precision: `exact`, `fp32`, `bf16` or `fp16`; see `precision.form_of`.
            logvar: keep the log-variance of what has one.
            dtype: of the stored floats.
            threads: batches at a time on a CPU; changes no latents.
            memory_bytes: that batches may take together, by prediction; None: what is free now.
        """
        self.codec = codec
        device = codec.model.device
        self._side = Side(EncoderSide(codec.model), form_of(precision, device))
        codes = torch.uint16 if (codec.codebook_size or 0) <= SMALL_CODEBOOK else torch.int32
        self.dtype = codes if codec.is_vq else DTYPES[dtype]
        """of what is stored"""
        self.kind: Kind = "vq_indices" if codec.is_vq else "moments" if logvar and _has_posterior(codec) else "mean"
        workers = threads if device.type == "cpu" else 1
        self._most = workers + 1  # one more, so that none waits for images
        self._pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        self._waiting: deque[tuple[Future[Encoded], int]] = deque()
        self._memory = available_bytes(device) if memory_bytes is None else memory_bytes
        # Predictions put other weights into the module for a moment, while threads may be computing with it.
        self._shapes = copy.deepcopy(self._side.module).to("meta")
        self._predicted: dict[tuple[int, ...], int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, images: Sequence[Pixels]) -> "Future[Encoded]":
        """Images [H,W,C] of one size => their latents, when they are done. Waits while too much is under way.

        Raises LatentDatasetError if they alone would take more memory than there is.
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
            self._waiting.popleft()[0].exception()  # whoever asks for the result gets it raised
        future = self._pool.submit(self._encode, batch)
        self._waiting.append((future, needed))
        return future

    def _encode(self, images: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> Encoded:
        pixels = torch.stack([to_tensor(image) for image in images])
        with torch.no_grad():
            outputs = self._outputs(pad_to_factor(pixels, self.codec.factor))
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

    def _outputs(self, pixels: Tensor) -> Tensor:
        """What the side gives for pixels [B,C,H,W], in tiles where the codec has them and they are larger."""
        tiling, factor = self.codec.tiling, self.codec.factor
        if tiling is None or tiling.count(pixels.shape[-2] // factor, pixels.shape[-1] // factor) == 1:
            return self._side(pixels)
        return run_tiled(self._side, pixels, tiling, scale_in=factor, scale_out=1, tick=lambda: None)

    def _bytes(self, shape: tuple[int, ...]) -> int:
        """That a batch takes, predicted for sides rounded up: a prediction takes as long as a small image."""
        count, height, width, channels = shape
        tiling, factor = self.codec.tiling, self.codec.factor
        if tiling is not None:  # a tile at a time
            height, width = (factor * side for side in tiling.size(-(-height // factor), -(-width // factor)))
        step = math.lcm(factor, _STEP_PIXELS)
        size = (count, channels, -(-height // step) * step, -(-width // step) * step)
        if size not in self._predicted:
            form = self._side.form
            self._predicted[size] = peak_bytes(
                self._shapes, size, form.dtype, channels_last=form.channels_last, device=self._side.device.type
            )
        return self._predicted[size]


def _bad_values(values: Tensor) -> Tensor:
    return (~values.isfinite()).flatten(1).sum(1).cpu()


def _has_posterior(codec: Codec) -> bool:
    """Whether the model's latents are drawn: those of a plain autoencoder are certain."""
    picture = from_tensor(photo_like(codec.channels, 4 * codec.factor)[0])
    return codec.encode([picture], logvar=True)[0].logvar is not None
