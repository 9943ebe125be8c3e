"""The base of every error that is the user's to mend, and the one that every reader of images raises."""


class UserError(ValueError):
    """Something given to the program is wrong; the message is one line: what was got, what was expected, what to do.

    Programs print it without a trace and exit non-zero. Anything else that is raised is a defect and keeps its trace.
    """


class BrokenImage(UserError):  # noqa: N818 - a fact about a file, met once in a thousand, not a fault of the program
    """Something is not an image that can be used.

    `reason` is one line and `name` says which image, where that is known.
    """

    def __init__(self, reason: str, name: str | None = None) -> None:
        self.reason = " ".join(reason.split())
        self.name = name
        super().__init__(f"cannot use the image{f' {name}' if name else ''}: {self.reason}")

    def __reduce__(self) -> tuple[type["BrokenImage"], tuple[str, str | None]]:
        # An exception that crosses a process border is rebuilt from its message alone otherwise.
        return type(self), (self.reason, self.name)


def one_line(error: Exception) -> str:
    """What another library's error says, to be a part of a UserError's message."""
    return " ".join(str(error).split())
