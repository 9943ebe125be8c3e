"""What the program says, and to whom."""

import sys


def say(text: str) -> None:
    """A line of what was asked for."""
    sys.stdout.write(f"{text}\n")


def remark(text: str) -> None:
    """A line on how the work is done, beside what was asked for."""
    sys.stderr.write(f"{text}\n")


def complain(text: str) -> None:
    """A line on what is wrong, whatever is in it."""
    sys.stderr.write(f"error: {' '.join(text.split())}\n")
