"""The log: one line per record, of bounded length, with control characters escaped."""

import logging
import sys
import traceback
import warnings
from typing import Any

from latent_ae.app import gradio_internals

_LENGTH = 600
"""Characters of a record."""
_PLACES = 4
"""Frames of a stack, from the innermost."""

_log = logging.getLogger("app")


class OneLine(logging.Formatter):
    """Formats a record with its exception as one line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """The exception and its innermost frames."""
        return described(ei[1])

    def format(self, record: logging.LogRecord) -> str:
        """The line, with unprintable characters escaped."""
        record.exc_text = None  # another handler's, which may have lines
        return printable(super().format(record).replace("\n", ": ", 1 if record.exc_info else 0))


def printable(text: str) -> str:
    """Text as one line of bounded length, with unprintable characters escaped."""
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:_LENGTH])
    return shown if len(text) <= _LENGTH else f"{shown} ... ({len(text):,} characters)"


def described(error: BaseException | None) -> str:
    """An exception and the innermost frames of its stack in one line."""
    if error is None:
        return "no exception"
    stack = traceback.extract_tb(error.__traceback__)[-_PLACES:]
    places = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(stack))
    return f"{printable(f'{type(error).__name__}: {error}')} ({places})"


def set_logs() -> None:
    """Log everything in this process as such lines, on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}"
    # An error in a generator that is discarded, as when a visitor leaves during a reply.
    sys.unraisablehook = lambda failed: _log.warning("an error that no caller receives", exc_info=failed.exc_value)


def set_server_logs() -> None:
    """The same for what Gradio prints, and for the loggers that uvicorn sets up when it starts."""
    gradio_internals.log_failed_calls()
    for name in ("uvicorn", "uvicorn.access"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(OneLine())
