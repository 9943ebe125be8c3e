"""The service: one method per endpoint, called by the app and the HTTP routes. Knows nothing of either."""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, Self

import torch
from torch import Tensor

from latent_ae.inference import Codec, Precision
from latent_ae.io.image import Pixels
from latent_ae.io.latent_file.latents import Dtype, Latents
from latent_ae.models import latent_space
from latent_ae.service import catalog, comparison, inspection, measures, remote, results, suitability, uploads
from latent_ae.service.admission import Admission, Request, ServiceStats
from latent_ae.service.catalog import ModelInfo, Prior
from latent_ae.service.comparison import Compared
from latent_ae.service.errors import BadRequest
from latent_ae.service.jobs import ServedModel
from latent_ae.service.limits import DEFAULTS, MAX_SEED, ServiceLimits, check_pixels, require_whole
from latent_ae.service.queue import ModelQueue, Tick
from latent_ae.service.results import Baseline, Encoded, Images, Inspection, Reconstruction
from latent_ae.service.uploads import File


class Service:
    """Models by id. Every method can be called from any number of threads.

    Requests can raise Busy, DeadlineExceeded, ShuttingDown, UnknownModel and BadRequest. `model` is an id; None: the
    first. `tick` is called in the caller's thread with the share that is done; what it raises ends the request.
    """

    def __init__(
        self,
        codecs: Mapping[str, Codec],
        *,
        limits: ServiceLimits = DEFAULTS,
        perceptual: Literal["auto"] | None = None,
        priors: Sequence[str] = (),
    ) -> None:
        """With `perceptual` auto LPIPS is measured if its weights are on this machine.

        `priors` are folders of learned priors of the models' latents. Raises ModelError for one that is not.
        """
        if not codecs:
            raise ValueError("a service needs at least one model")
        self.limits = limits
        learned = catalog.load_priors(priors, codecs)
        self._infos = {name: catalog.describe(name, codec, learned.get(name)) for name, codec in codecs.items()}
        self._models = {
            name: ServedModel(self._infos[name], codec, limits, learned.get(name)) for name, codec in codecs.items()
        }
        self._perceptual = measures.Perceptual.find() if perceptual == "auto" else measures.Perceptual()
        self._queue = ModelQueue(limits.batch_pixels)
        self.admission = Admission(self._queue, limits, cpu_slots=max(2, os.cpu_count() or 1))

    @classmethod
    def load(
        cls,
        names: Sequence[str],
        *,
        limits: ServiceLimits = DEFAULTS,
        device: torch.device | str | None = None,
        precision: Precision | None = None,
        tile: int | None = None,
        perceptual: Literal["auto"] | None = "auto",
        priors: Sequence[str] = (),
    ) -> Self:
        """Model directories, hub ids or single files; the first is the default. Raises ModelError, UserError.

        Larger images than `tile` pixels a side are encoded and decoded in tiles, an approximation; None: never.
        Without `precision` it is the Codec's: fp32 to encode, auto to decode.
        """
        codecs = {
            model_id: Codec.load(name, device=device, precision=precision, tile=tile, memory_bytes=limits.memory_bytes)
            for model_id, name in zip(catalog.model_ids(names), names, strict=True)
        }
        return cls(codecs, limits=limits, perceptual=perceptual, priors=priors)

    def models(self) -> list[ModelInfo]:
        """The models, the default first."""
        return list(self._infos.values())

    def encode(
        self,
        image: File,
        *,
        model: str | None = None,
        seed: int | None = None,
        dtype: Dtype | None = None,
        logvar: bool = False,
        tick: Tick | None = None,
    ) -> Encoded:
        """An image's latents: the posterior's mode, or with `seed` a sample of it; the codes of a VQ model.

        `dtype` is that of the stored floats, float32 if None. Raises BadRequest for options without effect.
        """
        with self._request("encode", model, tick) as (request, chosen):
            seed = None if seed is None else require_whole("seed", seed, 0, MAX_SEED)
            results.check_options(chosen.info, seed=seed, dtype=dtype, logvar=logvar)
            upload, (pixels, remarks, _) = self._image(request, image, chosen)
            latents = request.run([chosen.encode(pixels, seed=seed, logvar=logvar)])[0]
            return results.encoded(chosen.info, upload, latents, remarks, seed=seed, dtype=dtype, logvar=logvar)

    def decode(
        self, latents: File, *, model: str | None = None, foreign: bool = False, tick: Tick | None = None
    ) -> Images:
        """The images of a latent file, by `model` or the one whose encoder made it. Raises WrongModel, BadLatents.

        With `foreign` also of a file that names another encoder or none, by `model`; the note says what was assumed.
        """
        with self.admission.request("decode", tick) as request:
            if foreign and model is None:
                raise BadRequest("foreign latents do not say which model decodes them: name one")
            with request.cpu_slot():
                upload = uploads.read_upload(latents, self.limits)
                if foreign:
                    chosen = self._models[catalog.choose(self._infos, model)]
                    given, note = uploads.read_foreign_latents(upload, chosen.info, self.limits)
                else:
                    given, note = uploads.read_latents(upload, self.limits), ""
                    chosen = self._model_for(given, model)
            decoded = request.run(chosen.decode(given))
            images, seams = tuple(each.image for each in decoded), tuple(each.seam_db for each in decoded)
            pixels = chosen.info.pixel_format
            return Images(chosen.info.id, pixels, images, note, request.model_seconds, decoded[0].compute, seams)

    def reconstruct(
        self,
        image: File,
        *,
        model: str | None = None,
        baselines: bool = False,
        max_pixels: int | None = None,
        tick: Tick | None = None,
    ) -> Reconstruction:
        """What a model keeps of an image, with metrics; with `baselines` JPEG and WebP beside it.

        A picture of more than `max_pixels` is scaled down to them first.
        """
        with self._request("reconstruct", model, tick) as (request, chosen):
            form = chosen.info.pixel_format
            if baselines:
                measures.require_baselines(form)
            upload, (pixels, remarks, colored) = self._image(request, image, chosen, max_pixels)
            latents = request.run([chosen.encode(pixels, and_decode=True)], until=0.3)[0]
            decoded = request.run(chosen.decode(latents), until=0.9)[0]
            with request.cpu_slot():
                metrics, notes = measures.measure(decoded.image, pixels, form, self._perceptual, request.check)
                sizes = results.sizes(upload, pixels, latents)
                beside = (
                    measures.baselines(pixels, sizes, self._perceptual, lambda _: request.check()) if baselines else ()
                )
                return Reconstruction(
                    model=chosen.info.id,
                    pixel_format=form,
                    original=pixels,
                    reconstructed=decoded.image,
                    encoded=results.encoded(chosen.info, upload, latents, remarks),
                    metrics=metrics,
                    notes=notes,
                    sizes=sizes,
                    decoding=decoded.compute,
                    seam_db=decoded.seam_db,
                    seconds=request.model_seconds,
                    unlike=suitability.unlike_training(chosen.info, *pixels.shape[:2], colored=colored),
                    baselines=beside,
                )

    def compare(
        self, image: File, *, models: Sequence[str] | None = None, tick: Tick | None = None
    ) -> tuple[Compared, ...]:
        """What several models keep of an image, all of them if None: a `reconstruct` for each, one after another.

        A model that cannot take the image has the reason in its place. Raises the first reason if none can.
        """
        names = comparison.chosen(self._infos, models)
        return comparison.compare(functools.partial(self.reconstruct, image), names, tick)

    def baselines(self, reconstruction: Reconstruction, *, tick: Tick | None = None) -> tuple[Baseline, ...]:
        """JPEG and WebP at the highest quality with no more bytes than the smallest form of the latents.

        Empty for images that these formats cannot hold.
        """
        if not measures.has_baselines(reconstruction.pixel_format):
            return ()
        with self.admission.request("baselines", tick) as request, request.cpu_slot(search=True):
            return measures.baselines(reconstruction.original, reconstruction.sizes, self._perceptual, request.advance)

    def channel_images(self, latents: Latents, *, model: str | None = None) -> tuple[Pixels, ...]:
        """Each latent channel of the first image as a grey picture, or its codes as one in colours."""
        with self.admission.request("channel_images"):
            return inspection.latent_pictures(latents, self._model_for(latents, model).info.codebook_size)

    def sample(
        self,
        *,
        model: str | None = None,
        count: int | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        size: int | None = None,
        prior: Prior = "normal",
        label: int | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        tick: Tick | None = None,
    ) -> Images:
        """Decoded draws from N(0, temperature^2), or from evenly drawn codes; the note says whether they mean anything.

        `count` is 16 if None, or as many as the server draws. `size` is the side of the images in pixels, rounded to
        a multiple of the model's factor; None: that of the training images, or 256. `prior` "learned" draws from the
        model's learned prior, at its own size; of a prior of codes, `label` is the class (None: each in turn), and
        `top_k` and `top_p` leave out improbable codes.
        """
        with self._request("sample", model, tick) as (request, chosen):
            count = require_whole("count", count, 1, self.limits.samples, default=self.limits.default_count)
            seed = require_whole("seed", seed, 0, MAX_SEED)
            options = catalog.draw_options(prior, temperature=temperature, label=label, top_k=top_k, top_p=top_p)
            side = catalog.drawn_side(chosen.info, prior, size, self.limits.side)
            check_pixels(side, side, self.limits, count=count)
            job = chosen.draw(count, seed=seed, options=options, side=side, learned=prior == "learned")
            vectors = request.run([job], until=0.0)[0]
            note = catalog.prior_note(chosen.info) if prior == "normal" else ""
            return self._frames(request, chosen, vectors, note)

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
        """Decoded interpolations of two images' latents, both ends included: 9, or as many as are allowed, if None.

        The second image is scaled and cropped to the size of the first; both are made smaller if frames are too large.
        """
        with self._request("interpolate", model, tick) as (request, chosen):
            steps = require_whole("steps", steps, 2, self.limits.samples, default=self.limits.default_steps)
            start, end = self._vectors(request, chosen, (a, b), count=steps)
            line = latent_space.interpolate(start, end, steps, spherical=spherical)
            return self._frames(request, chosen, line, catalog.interpolation_note(chosen.info))

    def interpolate_grid(
        self, images: Sequence[File], *, model: str | None = None, side: int | None = None, tick: Tick | None = None
    ) -> Images:
        """Side * side decoded bilinear interpolations of 4 images, row by row; side 6, or what is allowed, if None.

        The images are the upper left, upper right, lower left and lower right corner; sizes as in `interpolate`.
        """
        with self._request("interpolate_grid", model, tick) as (request, chosen):
            limits = self.limits
            side = require_whole("side", side, 2, limits.max_grid_side, default=limits.default_grid_side)
            if len(images) != 4:
                raise BadRequest(f"an interpolation grid needs 4 images, got {len(images)}")
            corners = self._vectors(request, chosen, images, count=side * side)
            grid = latent_space.interpolate_grid(torch.stack(corners), side).flatten(0, 1)
            return self._frames(request, chosen, grid, catalog.interpolation_note(chosen.info))

    def inspect(self, image: File, *, model: str | None = None, tick: Tick | None = None) -> Inspection:
        """What is in an image's latents, beside what was measured over the training images."""
        with self._request("inspect", model, tick) as (request, chosen):
            pixels = self._image(request, image, chosen)[1].pixels
            latents = request.run([chosen.encode(pixels, logvar=True)])[0]
            return inspection.inspect_latents(chosen.info, latents, chosen.codec.normalisation)

    def decode_tensor(
        self, asked: remote.RemoteDecode, *, model: str | None = None, tick: Tick | None = None
    ) -> remote.RemoteReply:
        """The reply to diffusers' `remote_decode`."""
        with self._request("decode_tensor", model, tick) as (request, chosen):
            return remote.decode(asked, request, chosen, self.limits)

    def encode_tensor(
        self, asked: remote.RemoteEncode, *, model: str | None = None, tick: Tick | None = None
    ) -> remote.RemoteReply:
        """The reply to diffusers' `remote_encode`: the posterior's mode, or the codes' vectors; see `remote`."""
        with self._request("encode_tensor", model, tick) as (request, chosen):
            return remote.encode(asked, request, chosen, self.limits)

    def others_ahead(self) -> int:
        """How many other requests the models serve before that of the calling thread; for its tick."""
        return self._queue.others_ahead()

    def stats(self) -> ServiceStats:
        """Counts since the start, and the current load."""
        return self.admission.stats()

    def close(self) -> None:
        """End all requests with ShuttingDown, running batches between two strips or tiles. Can be called again."""
        self._queue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _request(self, endpoint: str, model: str | None, tick: Tick | None) -> Iterator[tuple[Request, ServedModel]]:
        with self.admission.request(endpoint, tick) as request:
            yield request, self._models[catalog.choose(self._infos, model)]

    def _model_for(self, latents: Latents, model: str | None) -> ServedModel:
        chosen = self._models[catalog.choose_for_latents(self._infos, model, latents.encoder)]
        uploads.check_latents(latents, chosen.info)
        return chosen

    def _image(
        self, request: Request, file: File, chosen: ServedModel, max_pixels: int | None = None
    ) -> tuple[uploads.Upload, uploads.Picture]:
        with request.cpu_slot():
            upload = uploads.read_upload(file, self.limits)
            form, limits = chosen.info.pixel_format, self.limits
            return upload, uploads.read_image(upload, pixels=form, limits=limits, max_pixels=max_pixels)

    def _vectors(self, request: Request, chosen: ServedModel, files: Sequence[File], *, count: int) -> list[Tensor]:
        """Raw latents of images, scaled and cropped to a size that `count` of them can have."""
        with request.cpu_slot():
            frames = uploads.read_frames(files, pixels=chosen.info.pixel_format, count=count, limits=self.limits)
        return request.run(chosen.encode_vectors(frames), until=0.1)

    def _frames(self, request: Request, chosen: ServedModel, vectors: Tensor, note: str) -> Images:
        pixels = chosen.info.pixel_format
        frames = tuple(pixels.from_tensor(frame) for frame in request.run(chosen.decode_vectors(vectors)))
        compute = chosen.codec.compute("decoder", *frames[0].shape[:2])
        return Images(chosen.info.id, pixels, frames, note, request.model_seconds, compute)
