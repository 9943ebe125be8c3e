"""What a program sets for its process, which is its own: a library leaves it to those who use it."""

import atexit
import os
import sys
import threading
from typing import NoReturn

from latent_ae.allocator import use_huge_pages
from latent_ae.deferred_imports import defer_imports


def own_process() -> None:
    """Start fast and take memory fast. A program calls it before it imports torch or diffusers."""
    use_huge_pages()
    defer_imports()


def leave(status: int) -> NoReturn:
    """End the process as `sys.exit(status)` does; one of several processes without taking the interpreter apart.

    A thread of gloo's may then still be letting go of a tensor, for which it takes the GIL. Python ends a thread that
    asks for the GIL that late, and C++ aborts: with torch 2.13 a run that had saved everything ended by SIGABRT.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        sys.exit(status)
    threading._shutdown()  # type: ignore[attr-defined]  # what Python itself calls to wait for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
