"""The log: one line a record, of a bounded length, in which what visitors sent cannot pass for something else."""

import logging
import sys
import traceback
import warnings
from typing import Any

from latent_ae.app import gradio_internals

_LENGTH = 600
"""characters of a record"""
_PLACES = 4
"""of a stack, from the innermost"""

_log = logging.getLogger("app")


class OneLine(logging.Formatter):
    """Formats a record with its exception as one line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """The exception and where it came from."""
        return described(ei[1])

    def format(self, record: logging.LogRecord) -> str:
        """The line, with all else than printable characters escaped."""
        record.exc_text = None  # another handler's, which may have lines
        return printable(super().format(record).replace("\n", ": ", 1 if record.exc_info else 0))


def printable(text: str) -> str:
    """Text of a bounded length in one line, without control characters."""
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:_LENGTH])
    return shown if len(text) <= _LENGTH else f"{shown} ... ({len(text):,} characters)"


def described(error: BaseException | None) -> str:
    """An exception in one line: what it is, and the innermost places of its stack."""
    if error is None:
        return "no exception"
    stack = traceback.extract_tb(error.__traceback__)[-_PLACES:]
    places = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(stack))
    return f"{printable(f'{type(error).__name__}: {error}')} ({places})"


def set_logs() -> None:
    """Let all that is logged in this process be such lines, on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}"
    # An error inside of a generator that is thrown away, as when a visitor leaves in the middle of an answer.
    sys.unraisablehook = lambda failed: _log.warning("nobody takes this error", exc_info=failed.exc_value)


def set_server_logs() -> None:
    """The same for what Gradio prints, and for the loggers that uvicorn sets up when it starts."""
    gradio_internals.log_failed_calls()
    for name in ("uvicorn", "uvicorn.access"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(OneLine())
