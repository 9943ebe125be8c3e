"""The base of every error that is the user's to mend."""


class UserError(ValueError):
    """Something given to the program is wrong; the message is one line: what was got, what was expected, what to do.

    Programs print it without a trace and exit non-zero. Anything else that is raised is a defect and keeps its trace.
    """


def one_line(error: Exception) -> str:
    """What another library's error says, to be a part of a UserError's message."""
    return " ".join(str(error).split())
