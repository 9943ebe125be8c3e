"""What can be wrong with a request, as a visitor and a program are told of it."""

from typing import ClassVar

from latent_ae.errors import UserError


class ServiceError(UserError):
    """A request that is not answered; the message is one sentence that a visitor understands."""

    code: ClassVar[str]
    """for programs; never changes"""
    status: ClassVar[int]
    """of HTTP"""


class BadRequest(ServiceError):  # noqa: N818 - named as HTTP names them
    """A parameter is out of its range, or a part of the request is missing."""

    code = "bad_request"
    status = 400


class UnknownModel(ServiceError):  # noqa: N818
    """A model that is not on the list of this server."""

    code = "unknown_model"
    status = 404


class TooLarge(ServiceError):  # noqa: N818
    """More bytes, pixels, frames or memory than the server allows."""

    code = "too_large"
    status = 413


class UnsupportedFormat(ServiceError):  # noqa: N818
    """A file that is not of a kind that is read."""

    code = "unsupported_format"
    status = 415


class BrokenUpload(ServiceError):  # noqa: N818
    """An image file of a known kind that is damaged."""

    code = "broken_image"
    status = 422


class BadLatents(ServiceError):  # noqa: N818
    """A file that is no latent file, or one that cannot be decoded."""

    code = "bad_latents"
    status = 422


class WrongModel(ServiceError):  # noqa: N818
    """Latents of an encoder that none of the server's models has, or not the model asked for."""

    code = "wrong_model"
    status = 409


class Busy(ServiceError):  # noqa: N818
    """The queue is full."""

    code = "busy"
    status = 503


class DeadlineExceeded(ServiceError):  # noqa: N818
    """The work was not finished in the time a request may take."""

    code = "deadline"
    status = 504


class ShuttingDown(ServiceError):  # noqa: N818
    """The server takes and finishes no more requests."""

    code = "shutting_down"
    status = 503
