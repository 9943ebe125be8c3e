"""Errors of a request, for people (the message is one sentence) and for programs (`code` and the HTTP `status`)."""
# ruff: noqa: N818 - named as HTTP names them

from typing import ClassVar

from latent_ae.errors import UserError


class ServiceError(UserError):
    """The request is refused or fails."""

    code: ClassVar[str]
    """never changes"""
    status: ClassVar[int]


class BadRequest(ServiceError):
    """A parameter is missing, out of range, or has no effect."""

    code, status = "bad_request", 400


class UnknownModel(ServiceError):
    """The server has no model of this id."""

    code, status = "unknown_model", 404


class TooLarge(ServiceError):
    """More bytes, pixels, images, memory or time than the server allows."""

    code, status = "too_large", 413


class UnsupportedFormat(ServiceError):
    """The server does not read this file format."""

    code, status = "unsupported_format", 415


class BrokenUpload(ServiceError):
    """The image file is damaged."""

    code, status = "broken_image", 422


class BadLatents(ServiceError):
    """The file is not a latent file, or its latents cannot be decoded."""

    code, status = "bad_latents", 422


class WrongModel(ServiceError):
    """The latents are from another encoder than the requested model's, or than that of any model of the server."""

    code, status = "wrong_model", 409


class Busy(ServiceError):
    """All slots are taken."""

    code, status = "busy", 503


class DeadlineExceeded(ServiceError):
    """The request was not finished within `ServiceLimits.deadline_seconds`."""

    code, status = "deadline", 504

    def __init__(self) -> None:
        super().__init__("the work was not finished in the time that a request may take: try a smaller image")


class ShuttingDown(ServiceError):
    """The server accepts and finishes no more requests."""

    code, status = "shutting_down", 503

    def __init__(self) -> None:
        super().__init__("the server is shutting down: try again later")
