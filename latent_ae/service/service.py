"""The service's endpoints: what the app and the HTTP routes call. Knows nothing of either."""

import dataclasses
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from latent_ae.inference import Codec
from latent_ae.inference import Precision as ModelPrecision
from latent_ae.io.image import Pixels, from_tensor
from latent_ae.io.latent_file.latents import Latents, Precision
from latent_ae.models import latent_space as space
from latent_ae.service import answers, catalog, intake, pictures, remote
from latent_ae.service.admission import Admission, Request, ServiceStats
from latent_ae.service.errors import BadRequest, ServiceError
from latent_ae.service.inspection import inspect_latents
from latent_ae.service.jobs import ServedModel
from latent_ae.service.limits import DEFAULTS, TILE, ServiceLimits, require_choice, require_number, require_whole
from latent_ae.service.priors import Prior, drawn_side, load_priors, prior_note
from latent_ae.service.quality import Perceptual, measure
from latent_ae.service.queue import ModelQueue, Tick
from latent_ae.service.results import Encoded, Images, Inspection, ModelInfo, Reconstruction, Rival
from latent_ae.service.uploads import File, Uploads


class Service:
    """Models by id. Every method may be called from any number of threads.

    Requests raise ServiceErrors for what a visitor can do wrong, besides those that are named: Busy at once where too
    many are inside, DeadlineExceeded, ShuttingDown, UnknownModel. `model` is an id of the list, by default its first.
    `tick` is called in the caller's thread with the share that is done; what it raises ends the request.
    """

    def __init__(
        self,
        codecs: Mapping[str, Codec],
        *,
        limits: ServiceLimits = DEFAULTS,
        perceptual: Literal["auto"] | None = None,
        priors: Sequence[str] = (),
    ) -> None:
        """With `perceptual` auto LPIPS is measured where its weights lie on this machine.

        `priors` are folders of learned priors of the models' latents. Raises ModelError for one that is not.
        """
        if not codecs:
            raise ValueError("a service needs at least one model")
        self.limits = limits
        self._uploads = Uploads(limits)
        learned = load_priors(priors, codecs)
        self._infos = {name: catalog.describe(name, codec, learned.get(name)) for name, codec in codecs.items()}
        self._models = {
            name: ServedModel.of(self._infos[name], codec, limits.memory_bytes, learned.get(name))
            for name, codec in codecs.items()
        }
        self._perceptual = Perceptual.find() if perceptual == "auto" else Perceptual(None, "not asked for")
        self._queue = ModelQueue(limits.batch_pixels)
        self._admission = Admission(self._queue, limits, cpu_slots=max(2, os.cpu_count() or 1))

    @classmethod
    def load(
        cls,
        names: Sequence[str],
        *,
        limits: ServiceLimits = DEFAULTS,
        device: torch.device | str | None = None,
        precision: ModelPrecision | None = None,
        tile: int | None = TILE,
        perceptual: Literal["auto"] | None = "auto",
        priors: Sequence[str] = (),
    ) -> "Service":
        """Model directories, hub ids or single files; the first is the default. Raises ModelError, UserError.

        Images larger than `tile` pixels a side are coded in tiles, so that requests need bounded memory; None: never.
        What is not given of `precision` is the Codec's: fp32 to encode, auto to decode.
        """
        codecs = {
            model_id: Codec.load(name, device=device, precision=precision, tile=tile, memory_bytes=limits.memory_bytes)
            for model_id, name in zip(catalog.model_ids(names), names, strict=True)
        }
        return cls(codecs, limits=limits, perceptual=perceptual, priors=priors)

    def models(self) -> list[ModelInfo]:
        """The list, the default first."""
        return list(self._infos.values())

    def encode(
        self,
        image: File,
        *,
        model: str | None = None,
        seed: int | None = None,
        precision: Precision | None = None,
        logvar: bool = False,
        tick: Tick | None = None,
    ) -> Encoded:
        """An image's latents: the posterior's mode, or with `seed` a draw from it; of a VQ model the codes.

        `precision` is of the floats in the file, float32 if None. What has no effect with the model is refused.
        """
        with self._admission.request("encode", tick) as request:
            chosen = self._model(model)
            if precision is not None:
                require_choice("precision", precision, ("float32", "float16", "bfloat16"))
            seed = None if seed is None else require_whole("seed", seed, 0, 2**63 - 1)
            answers.require_effect(chosen.info, seed=seed, precision=precision, logvar=logvar)
            upload, (pixels, remarks) = self._uploads.image(request, image, channels=chosen.info.channels)
            latents: Latents = request.run([chosen.encode(pixels, seed=seed, logvar=logvar)])[0]
            drawn = answers.drawn(chosen.info, latents, seed=seed, logvar=logvar)
            return answers.encoded(chosen.info.id, upload, drawn, precision or "float32", remarks)

    def decode(
        self, latents: File, *, model: str | None = None, foreign: bool = False, tick: Tick | None = None
    ) -> Images:
        """The images of a latent file, by `model` or whichever has its encoder. Raises WrongModel, BadLatents.

        With `foreign` also of a file that names another encoder or none, by `model`, which must then be given; the note
        says what was assumed.
        """
        with self._admission.request("decode", tick) as request:
            if foreign:
                if model is None:
                    raise BadRequest("foreign latents do not say which model decodes them: name one")
                chosen = self._model(model)
                given, note = self._uploads.foreign_latents(request, latents, chosen.info)
            else:
                given, note = self._uploads.latents(request, latents), ""
                chosen = self._fitting(given, model)
            decoded = request.run(chosen.decode(given))
            return Images(
                model=chosen.info.id,
                images=tuple(each.image for each in decoded),
                note=note,
                seconds=request.seconds,
                decoding=decoded[0].compute,
                seam_db=tuple(each.seam_db for each in decoded),
            )

    def reconstruct(
        self, image: File, *, model: str | None = None, rivals: bool = False, tick: Tick | None = None
    ) -> Reconstruction:
        """What a model keeps of an image, with measures; with `rivals` JPEG and WebP beside it."""
        with self._admission.request("reconstruct", tick) as request:
            chosen = self._model(model)
            upload, (pixels, remarks) = self._uploads.image(request, image, channels=chosen.info.channels)
            latents: Latents = request.run([chosen.encode(pixels, and_decode=True)], until=0.3)[0]
            decoded = request.run(chosen.decode(latents), until=0.9)[0]
            with request.cpu_slot():
                metrics, notes = measure(decoded.image, pixels, self._perceptual, request.check)
                found = Reconstruction(
                    model=chosen.info.id,
                    original=pixels,
                    reconstructed=decoded.image,
                    encoded=answers.encoded(chosen.info.id, upload, latents, "float32", remarks),
                    metrics=metrics,
                    notes=notes,
                    sizes=answers.sizes(upload, pixels, latents),
                    decoding=decoded.compute,
                    seam_db=decoded.seam_db,
                    seconds=request.seconds,
                )
                if not rivals:
                    return found
                beside = answers.rivals(found, self._perceptual, request.check)
                return dataclasses.replace(found, rivals=beside, seconds=request.seconds)

    def rivals(self, reconstruction: Reconstruction, *, tick: Tick | None = None) -> tuple[Rival, ...]:
        """JPEG and WebP of the highest quality at no more bytes than the smallest size of the latents."""
        with self._admission.request("rivals", tick) as request, request.cpu_slot():
            return answers.rivals(reconstruction, self._perceptual, request.check)

    def difference(self, reconstruction: Reconstruction, *, tolerance: float, gain: float) -> Pixels:
        """Where a reconstruction differs by `tolerance` levels of 255 or more; see `pictures.difference_map`."""
        return pictures.difference_map(
            reconstruction.reconstructed,
            reconstruction.original,
            tolerance=require_number("tolerance", tolerance, 0, 255),
            gain=require_number("gain", gain, 0, 255),
        )

    def channel_images(self, latents: Latents | File, *, model: str | None = None) -> tuple[Pixels, ...]:
        """Each latent channel of the first image as a grey picture, or its codes as one in colours."""
        with self._admission.request("channel_images") as request:
            given = latents if isinstance(latents, Latents) else self._uploads.latents(request, latents)
            return pictures.latent_pictures(given, self._fitting(given, model).info.codebook_size)

    def sample(
        self,
        *,
        model: str | None = None,
        count: int | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        size: int | None = None,
        prior: Prior = "normal",
        tick: Tick | None = None,
    ) -> Images:
        """Decoded draws from N(0, temperature^2), or of codes drawn evenly; the note says whether they mean anything.

        There are 16 of them, or as many as the server draws, if `count` is None.
        `size` is the side of the images in pixels, brought to a multiple of the model's factor; without it that of
        the model's training images, or 256. `prior` "learned" draws from the model's learned one, of its own size.
        """
        with self._admission.request("sample", tick) as request:
            chosen = self._model(model)
            count = (
                self.limits.default_count if count is None else require_whole("count", count, 1, self.limits.samples)
            )
            seed = require_whole("seed", seed, 0, 2**63 - 1)
            temperature = require_number("temperature", temperature, 0, 10)
            side = drawn_side(chosen.info, prior, size, self.limits.side)
            intake.check_pixels(side, side, self.limits, count=count)
            work = chosen.draw(count, seed=seed, temperature=temperature, side=side, learned=prior == "learned")
            drawn = request.run([work], until=0.0)[0]
            note = prior_note(chosen.info) if prior == "normal" else ""
            return self._frames(request, chosen, drawn, note)

    def interpolate(
        self,
        a: File,
        b: File,
        *,
        model: str | None = None,
        steps: int | None = None,
        spherical: bool = False,
        tick: Tick | None = None,
    ) -> Images:
        """Decodings along the way between two images' latents, both ends included: 9, or as many as fit, if None.

        The second image is scaled and cut to the size of the first, and both are made smaller where frames of that
        size would be too large.
        """
        with self._admission.request("interpolate", tick) as request:
            chosen = self._model(model)
            steps = (
                self.limits.default_steps if steps is None else require_whole("steps", steps, 2, self.limits.samples)
            )
            images = self._uploads.alike(request, [a, b], channels=chosen.info.channels, frames=steps)
            start, end = request.run(chosen.encode_vectors(images), until=0.1)
            line = space.interpolate(start, end, steps, spherical=spherical)
            return self._frames(request, chosen, line, catalog.way_note(chosen.info))

    def walk(
        self, images: Sequence[File], *, model: str | None = None, side: int | None = None, tick: Tick | None = None
    ) -> Images:
        """Side * side decodings, row by row, of the square between the latents of 4 images; 6, or what fits, if None.

        The images stand upper left, upper right, lower left, lower right; sizes as in `interpolate`.
        """
        with self._admission.request("walk", tick) as request:
            chosen = self._model(model)
            side = (
                self.limits.default_grid_side
                if side is None
                else require_whole("side", side, 2, self.limits.max_grid_side)
            )
            if len(images) != 4:
                raise BadRequest(f"a walk goes between 4 images, got {len(images)}")
            alike = self._uploads.alike(request, images, channels=chosen.info.channels, frames=side * side)
            corners = request.run(chosen.encode_vectors(alike), until=0.1)
            square = space.walk(torch.stack(corners), side).flatten(0, 1)
            return self._frames(request, chosen, square, catalog.way_note(chosen.info))

    def inspect(self, image: File, *, model: str | None = None, tick: Tick | None = None) -> Inspection:
        """What is in an image's latents, beside what was measured over the training images."""
        with self._admission.request("inspect", tick) as request:
            chosen = self._model(model)
            _, (pixels, _) = self._uploads.image(request, image, channels=chosen.info.channels)
            latents: Latents = request.run([chosen.encode(pixels, logvar=True)])[0]
            return inspect_latents(chosen.info, latents)

    def decode_tensor(
        self, asked: remote.RemoteDecode, *, model: str | None = None, tick: Tick | None = None
    ) -> remote.RemoteReply:
        """The answer to diffusers' `remote_decode`; see `remote`."""
        with self._admission.request("decode_tensor", tick) as request:
            chosen = self._model(model)
            with request.cpu_slot():
                latents = remote.latents_of(asked, chosen.info, self.limits)
            pixels = torch.stack(request.run(chosen.decode_vectors(latents)))
            with request.cpu_slot():
                return remote.decoded_reply(asked, pixels, chosen.info.encoder)

    def encode_tensor(
        self, asked: remote.RemoteEncode, *, model: str | None = None, tick: Tick | None = None
    ) -> remote.RemoteReply:
        """The answer to diffusers' `remote_encode`: the posterior's mode, or the codes' vectors; see `remote`."""
        with self._admission.request("encode_tensor", tick) as request:
            chosen = self._model(model)
            with request.cpu_slot():
                images = remote.images_of(asked, chosen.info, self.limits)
            vectors = request.run(chosen.encode_vectors(images))
            return remote.encoded_reply(asked, torch.stack(vectors), chosen.info.encoder)

    def count_refused(self, endpoint: str, error: ServiceError) -> None:
        """Count a request that its caller refused."""
        self._admission.count(endpoint, error.code, 0.0)

    def identify_visitors(self, current: Callable[[], Hashable]) -> None:
        """Share the slots between visitors; `current` gives the visitor whose request the calling thread handles."""
        self._admission.current_visitor = current

    def stats(self) -> ServiceStats:
        """Counts since the start, and the current load."""
        return self._admission.stats()

    def close(self) -> None:
        """End all requests with ShuttingDown, running batches between two tiles. Can be called again."""
        self._queue.close()

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _model(self, model: str | None) -> ServedModel:
        return self._models[catalog.choose(self._infos, model)]

    def _fitting(self, latents: Latents, model: str | None) -> ServedModel:
        chosen = self._models[catalog.choose_for_latents(self._infos, model, latents.encoder)]
        intake.check_latents(latents, chosen.info)
        return chosen

    def _frames(self, request: Request, chosen: ServedModel, vectors: Tensor, note: str) -> Images:
        decoded = request.run(chosen.decode_vectors(vectors))
        frames = tuple(from_tensor(frame) for frame in decoded)
        compute = chosen.codec.compute("decoder", *frames[0].shape[:2])
        return Images(chosen.info.id, frames, note, request.seconds, compute)
