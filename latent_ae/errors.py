"""UserError, the base of every error that the user can fix, and those of models and images, which many rooms raise."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """Input is wrong. The message is one line: what was got, what was expected, what to do.

    Programs print it without a traceback and exit with a status other than 0. Any other exception is a defect and keeps
    its traceback.
    """


class ModelError(UserError):
    """A model that cannot be built, found or loaded as asked; the message is one line."""


class BrokenImage(UserError):  # noqa: N818 - a fact about a file, not a fault of the program
    """An image that cannot be used. `reason` is one line; `name` says which image, if that is known."""

    def __init__(self, reason: str, name: str | None = None) -> None:
        line = " ".join(reason.split())
        self.reason = "".join(letter if letter.isprintable() else "?" for letter in line)  # it may quote the file
        self.name = name
        super().__init__(f"cannot use the image{f' {name}' if name else ''}: {self.reason}")

    def __reduce__(self) -> tuple[type["BrokenImage"], tuple[str, str | None]]:
        # Otherwise an exception from another process is rebuilt from its message alone.
        return type(self), (self.reason, self.name)


def file_error(error: OSError) -> str:
    """The system's message and the file that it names, for programs to print."""
    return f"{error.strerror or error}: {error.filename or 'while writing'}"


def attempted(work: Callable[[], T]) -> tuple[list[T], str | None]:
    """What `work` gives, alone in a list, and None; or nothing, and the line about what the user can fix."""
    try:
        return [work()], None
    except UserError as error:
        return [], str(error)
    except OSError as error:
        return [], file_error(error)


def one_line(error: Exception) -> str:
    """The message of another library's error, for use in a UserError's."""
    return " ".join(str(error).split())
