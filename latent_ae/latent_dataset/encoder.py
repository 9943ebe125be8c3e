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
from latent_ae.inference.batching import STREAMED_PIXELS, Runner
from latent_ae.inference.memory import amount, available_bytes
from latent_ae.inference.precision import form_of
from latent_ae.inference.probe_image import photo_like
from latent_ae.inference.sides import EncoderSide, Side
from latent_ae.io.latent_file.header import SMALL_CODEBOOK
from latent_ae.io.latent_file.latents import DTYPES, Dtype
from latent_ae.io.pixel_format import Array
from latent_ae.latent_dataset.manifest import Kind, LatentDatasetError
from latent_ae.models import pad_to_factor

_STEP_PIXELS = 64


@dataclass(frozen=True)
class Encoded:
    """What is stored of an image, on the CPU."""

    tensors: dict[str, Tensor]
    """mean and logvar [c,h,w], or indices [h,w]"""
    bad_values: int
    """number of values that are not finite in the encoder's output, or else only in the storage dtype"""
    problem: str
    """why the image is left out, if there are any"""

    @property
    def grid(self) -> str:
        """The size of the latents, HxW."""
        height, width = next(iter(self.tensors.values())).shape[-2:]
        return f"{height}x{width}"


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
        module = EncoderSide(codec.model)
        side = Side(module, form_of(precision, device, as_written=module.as_written))
        self._runner = Runner(
            side,
            channels=codec.channels,
            factor=codec.factor,
            tiling=codec.tiling,
            memory_bytes=memory_bytes,
            numbers=codec.pixel_format.numbers,
        )
        codes = torch.uint16 if (codec.codebook_size or 0) <= SMALL_CODEBOOK else torch.int32
        self.dtype = codes if codec.is_vq else DTYPES[dtype]
        """of what is stored"""
        self.kind: Kind = "vq_indices" if codec.is_vq else "moments" if logvar and _has_posterior(codec) else "mean"
        workers = threads if device.type == "cpu" else 1
        self._most = workers + 1  # one more, so that no worker waits for images
        self._pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        self._waiting: deque[tuple[Future[list[Encoded]], int]] = deque()
        self._memory = available_bytes(device) if memory_bytes is None else memory_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, images: Sequence[Array]) -> "Future[list[Encoded]]":
        """Images [H,W,C] of one size, in the units of the codec's pixel format -> a future of what is stored of each.

        Waits while too many batches are running. Raises LatentDatasetError if this batch alone needs more memory than
        there is.
        """
        height, width = images[0].shape[:2]
        strips = self._in_strips(len(images), height, width)
        needed = self._bytes(len(images), height, width, in_strips=strips)
        if needed > self._memory:
            images_of = "an image" if len(images) == 1 else f"{len(images)} images"
            raise LatentDatasetError(
                f"encoding {images_of} of {width}x{height} pixels would take about {amount(needed)} of memory"
                f"{' even in strips of rows' * bool(strips)}, {amount(self._memory)} are free: give --resolution, a "
                "smaller --batch_size, or --tile 512, an approximation"
            )
        while self._waiting and (
            len(self._waiting) >= self._most or needed + sum(size for _, size in self._waiting) > self._memory
        ):
            self._waiting.popleft()[0].exception()  # `result` of the future raises it
        future = self._pool.submit(self._encode, [np.ascontiguousarray(image) for image in images], strips)
        self._waiting.append((future, needed))
        return future

    def _encode(self, images: Sequence[Array], in_strips: bool | None) -> list[Encoded]:
        pixels = torch.stack([self.codec.pixel_format.to_tensor(image) for image in images])
        with torch.no_grad():
            padded = pad_to_factor(pixels, self.codec.factor)
            outputs = self._runner.run(padded, lambda _: None, in_strips=in_strips)
            if self.codec.codebook is not None:
                # A search among codes has no use for NaN, and the image is left out.
                tensors = {"indices": self.codec.codebook.nearest(outputs.nan_to_num(0.0, 0.0, 0.0))}
            else:
                mean, logvar = outputs.chunk(2, dim=1)
                tensors = {"mean": mean} | ({"logvar": logvar} if self.kind == "moments" else {})
        stored = {name: tensor.to(self.dtype).cpu() for name, tensor in tensors.items()}
        nonfinite: list[int] = (~outputs.isfinite()).flatten(1).sum(1).tolist()
        pieces = ({name: tensor[place] for name, tensor in stored.items()} for place in range(len(images)))
        return [self._encoded(*piece) for piece in zip(pieces, nonfinite, strict=True)]

    def _encoded(self, tensors: dict[str, Tensor], nonfinite: int) -> Encoded:
        problem = ""
        overflown = sum(int((~tensor.isfinite()).sum()) for tensor in tensors.values())
        if nonfinite:
            problem = f"the encoder gives {nonfinite} values that are not finite"
        elif overflown:
            dtype = str(self.dtype).removeprefix("torch.")
            problem = f"{overflown} of its latents are too large for {dtype}: store bfloat16 or float32"
        return Encoded(tensors, nonfinite or overflown, problem)

    def _in_strips(self, count: int, height: int, width: int) -> bool | None:
        """Whether images of this size go through in strips of rows, which gives the same latents up to the order of
        sums; None: as the runner does.

        On a CPU it follows from the size, in `exact` too: latents do not depend on how much memory is free, except for
        images that could not be encoded otherwise.
        """
        if self.codec.tiling is not None:
            return None
        large = height * width > STREAMED_PIXELS and self.codec.model.device.type == "cpu"
        return large or self._bytes(count, height, width, in_strips=False) > self._memory

    def _bytes(self, count: int, height: int, width: int, *, in_strips: bool | None) -> int:
        """Predicted memory of a batch, for sides rounded up: each prediction takes as long as a small image."""
        step = math.lcm(self.codec.factor, _STEP_PIXELS) // self.codec.factor
        h, w = (-(-side // (self.codec.factor * step)) * step for side in (height, width))
        return self._runner.predicted_bytes((h, w), count, in_strips=in_strips)


def _has_posterior(codec: Codec) -> bool:
    """Whether the model has a posterior: the latents of a plain autoencoder are deterministic."""
    picture = codec.pixel_format.from_tensor(photo_like(codec.channels, 4 * codec.factor)[0])
    return codec.encode([picture], logvar=True)[0].logvar is not None
