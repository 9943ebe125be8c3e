"""What is done to files one after another: images to latent files, those to images, and both at once."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, TypeVar

import torch

from latent_ae.errors import UserError
from latent_ae.inference.batching import Tick, part_of
from latent_ae.inference.codec import Codec, Decoded
from latent_ae.inference.file_jobs import BATCH_PIXELS, Item, Target, Task, Tiled
from latent_ae.inference.forecast import forecast
from latent_ae.inference.image_reading import PLAIN, ReadImage, ReadingRule, read_image
from latent_ae.inference.precision import SideName
from latent_ae.inference.recorded_images import RecordedImages
from latent_ae.io.image_file.color import Profile, profile_name
from latent_ae.io.latent_file.foreign import LatentForm, Taken, take_latents
from latent_ae.io.latent_file.latents import (
    DTYPES,
    LIMITS,
    Dtype,
    LatentFileError,
    Latents,
    from_bytes,
    read_latents,
    write_latents,
)
from latent_ae.randomness import derived_seed

Made = TypeVar("Made")

_READ_BY = ("color", "axis", "page")
"""in a latent file's versions: how its image was read"""


class _ImageTask(Task[ReadImage, Made]):
    """What is done to image files by a model, read by a rule.

    Raises UserError for a rule without effect on the model's images.
    """

    sides: tuple[SideName, ...]
    """that images go through"""

    def __init__(self, codec: Codec, rule: ReadingRule) -> None:
        pixels = codec.pixel_format
        if rule.color == "keep" and (pixels.channels < 3 or pixels.numbers):
            what = "numbers" if pixels.numbers else "grey images"
            raise UserError(f"--color keep: {codec.name} is a model of {what}, which have no colours: leave it out")
        if rule.accept_damaged and pixels.numbers:
            raise UserError(f"--accept-damaged: {codec.name} is a model of numbers, which are read whole: leave it out")
        if rule.axis is not None and not pixels.numbers:
            raise UserError(f"--axis {rule.axis}: {codec.name} is a model of pictures, which have none: leave it out")
        self._codec = codec
        self._rule = rule

    def read(self, file: BinaryIO, page: int | None) -> ReadImage:
        """As the model's pixel format says."""
        return read_image(file, self._codec.pixel_format, self._rule, page=page)

    def notes(self, given: ReadImage) -> Sequence[str]:
        """What was changed or left out of the file."""
        return given.remarks

    def forecast(self, given: ReadImage) -> Sequence[str]:
        """How long a large image takes, if long, and what does not fit whole."""
        return forecast(self._codec, self.sides, *given.array.shape[:2])

    def smaller(self, given: ReadImage) -> str:
        """By prediction, of what is free now."""
        return self._codec.advice(self.sides[-1], *given.array.shape[:2])

    def pixels(self, given: ReadImage) -> int:
        """H * W."""
        return int(given.array.shape[0] * given.array.shape[1])


class Encode(_ImageTask[Latents]):
    """Image files to latent files, each with the sha256 of its source.

    Args:
        codec: of the model.
        seed: draw from the posterior, every file with a seed of its own that follows from this one and from the
            file's sha256, and is written down; the posterior's mode if None.
        dtype: of the stored floats; None: float32.
        logvar: store the posterior's log-variance too.
        rule: how image files are read; is written down, and asked for again by a later run.

    Raises UserError for what has no effect with this model.
    """

    sides = ("encoder",)

    def __init__(
        self,
        codec: Codec,
        *,
        seed: int | None,
        dtype: Dtype | None,
        logvar: bool,
        rule: ReadingRule = PLAIN,
    ) -> None:
        super().__init__(codec, rule)
        self._seed = seed
        self._dtype: Dtype = dtype or "float32"
        self._logvar = logvar
        if codec.is_vq and dtype is not None:
            raise UserError(
                f"--dtype {dtype} has no effect: {codec.name} encodes into codes, which are integers; leave it out"
            )
        if seed is not None or logvar:
            smallest = codec.pixel_format.from_tensor(torch.zeros(codec.channels, codec.factor, codec.factor))
            made = codec.encode([smallest], seed=seed, logvar=logvar)[0]
            if (seed is not None and made.kind != "sample") or (logvar and made.logvar is None):
                option = "--logvar" if seed is None else "--sample"
                raise UserError(f"{option} has no effect: {codec.name} has no posterior to sample from; leave it out")

    def is_made(self, target: Target, digest: str) -> bool:
        """Whether the latent file can be read and says that it is what this task makes of the source."""
        try:
            there = read_latents(target.outputs[0])
        except (LatentFileError, OSError):
            return False
        codes = there.kind == "vq_indices"
        return (
            (there.encoder, there.sources, there.seed) == (self._codec.identity, (digest,), self._seed_of(digest))
            and there.kind == ("vq_indices" if self._codec.is_vq else "mean" if self._seed is None else "sample")
            and (codes or there.tensor.dtype == DTYPES[self._dtype])
            and (there.logvar is not None) == self._logvar
            and there.compute == self._codec.compute("encoder", there.height, there.width)
            and {name: there.versions[name] for name in _READ_BY if name in there.versions} == self._read_by(target)
        )

    def make(self, items: Sequence[Item[ReadImage]], tick: Tick | None) -> list[Latents]:
        """Latents that know their sources."""
        if self._seed is None:
            made = self._codec.encode([item.given.array for item in items], logvar=self._logvar, tick=tick)
        else:  # alone, as each has a seed of its own: with one for all, all images would get the same noise
            made = [
                self._codec.encode([item.given.array], seed=self._seed_of(item.digest), logvar=self._logvar, tick=tick)[
                    0
                ]
                for item in items
            ]
        return [
            dataclasses.replace(
                latents,
                sources=(item.digest,),
                seed=self._seed_of(item.digest),
                versions={**latents.versions, **self._read_by(item.target), **self._found(item.given)},
            )
            for item, latents in zip(items, made, strict=True)
        ]

    def _read_by(self, target: Target) -> dict[str, str]:
        """How the image is read, as it is written down."""
        return self._rule.record(self._codec.pixel_format) | ({"page": str(target.page)} if target.page else {})

    @staticmethod
    def _found(given: ReadImage) -> dict[str, str]:
        """What turned out as the image was read, as it is written down."""
        kept = {} if given.profile is None else {"profile": profile_name(Profile(given.profile))}
        return kept | ({"damage": given.damage} if given.damage else {})

    def write(self, item: Item[ReadImage], made: Latents) -> Tiled | None:
        """Whole or not at all."""
        output = item.target.outputs[0]
        output.parent.mkdir(parents=True, exist_ok=True)
        write_latents(output, made, dtype=self._dtype)
        return Tiled() if made.compute is not None and made.compute.tiles > 1 else None

    def _seed_of(self, digest: str) -> int | None:
        return None if self._seed is None else derived_seed(self._seed, "encode file", int(digest, 16))


class Reconstruct(_ImageTask[Decoded]):
    """Image files to files of what the model makes of them, each of exactly its image's size, channels and type.

    Args:
        codec: of the model.
        suffix: of the files.
        rule: how image files are read; is written down, and asked for again by a later run. Colours that are kept come
            with their profile.

    Raises UserError for files that cannot hold the model's images.
    """

    sides = ("encoder", "decoder")

    def __init__(self, codec: Codec, *, suffix: str = ".png", rule: ReadingRule = PLAIN) -> None:
        super().__init__(codec, rule)
        read_by = rule.record(codec.pixel_format)
        self._images = RecordedImages(codec, "reconstruct", self.sides, suffix, **read_by)

    def is_made(self, target: Target, digest: str) -> bool:
        """Whether the file is whole and says that it is what this task makes of the source."""
        return self._images.are_there(target, digest)

    def make(self, items: Sequence[Item[ReadImage]], tick: Tick | None) -> list[Decoded]:
        """Of the same sizes."""
        return self._codec.reconstruct_measured([item.given.array for item in items], tick=tick)

    def write(self, item: Item[ReadImage], made: Decoded) -> Tiled | None:
        """Whole or not at all."""
        return self._images.write(item.target, item.digest, [made], item.given)


class Decode(Task[Taken, Iterable[Decoded]]):
    """Latent files to images, one for each of a file's; see Reconstruct.

    With `foreign` also files that name another encoder or none, of latents that the model can decode by their form.
    """

    def __init__(self, codec: Codec, *, suffix: str = ".png", foreign: bool = False) -> None:
        self._codec = codec
        self._foreign = foreign
        self._images = RecordedImages(codec, "decode foreign" if foreign else "decode", ("decoder",), suffix)

    def is_made(self, target: Target, digest: str) -> bool:
        """Whether every file is whole and says that it is what this task makes of the source."""
        return self._images.are_there(target, digest)

    def read(self, file: BinaryIO, page: int | None) -> Taken:  # noqa: ARG002 - latent files have no pages
        """Raises LatentFileError for what is none; UnknownEncoder, WrongEncoder for foreign latents if not allowed."""
        data = file.read(LIMITS.header_bytes + LIMITS.tensor_bytes + 9)
        if self._foreign:
            codec = self._codec
            form = LatentForm(
                codec.name, codec.identity, codec.factor, codec.latent_channels, codec.codebook_size, codec.pixel_format
            )
            return take_latents(data, form)
        latents = from_bytes(data)
        latents.require_encoder(self._codec.identity)
        latents.require_pixels(self._codec.pixel_format)
        return Taken(latents, "")

    def notes(self, given: Taken) -> Sequence[str]:
        """What was assumed of foreign latents, and whose colours the images have if not sRGB's."""
        profile = given.latents.versions.get("profile")
        kept = f"has colours of {profile}, which were kept: the image carries no profile"
        return [*filter(None, [given.note]), *([] if profile is None else [kept])]

    def pixels(self, given: Taken) -> int:
        """N * H * W."""
        return given.latents.count * given.latents.height * given.latents.width

    def forecast(self, given: Taken) -> Sequence[str]:
        """How long a large image takes, if long, and what does not fit whole."""
        return forecast(self._codec, ("decoder",), given.latents.height, given.latents.width)

    def smaller(self, given: Taken) -> str:
        """By prediction, of what is free now."""
        return self._codec.advice("decoder", given.latents.height, given.latents.width)

    def make(self, items: Sequence[Item[Taken]], tick: Tick | None) -> list[Iterable[Decoded]]:
        """The images of each file; those of a large one are decoded as they are asked for."""
        if len(items) == 1:
            return [self._decoded(items[0].given.latents, tick)]
        images = iter(self._codec.decode_measured([item.given.latents for item in items], tick=tick))
        return [[next(images) for _ in range(item.given.latents.count)] for item in items]

    def write(self, item: Item[Taken], made: Iterable[Decoded]) -> Tiled | None:
        """Each file whole or not at all."""
        return self._images.write(item.target, item.digest, made)

    def _decoded(self, latents: Latents, tick: Tick | None) -> Iterator[Decoded]:
        step = max(1, BATCH_PIXELS // (latents.height * latents.width))
        for first in range(0, latents.count, step):
            part = dataclasses.replace(latents, tensor=latents.tensor[first : first + step], logvar=None, sources=())
            shares = first / latents.count, min(1.0, (first + step) / latents.count)
            yield from self._codec.decode_measured([part], tick=None if tick is None else part_of(tick, *shares))
