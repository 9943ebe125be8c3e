"""`latent-ae ...`: argument parsing and messages only.

Nothing here imports torch before a command needs it, so that help and the version come at once.
"""

import argparse
import sys
from collections.abc import Callable

from latent_ae._version import __version__
from latent_ae.cli import convert, evaluate, export, files, inspection, programs, space, verify
from latent_ae.cli.messages import complain
from latent_ae.errors import UserError

__all__ = ["main"]

INTERRUPTED = 130
"""what shells make of SIGINT"""


def main(argv: list[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0 complete success, 1 partial failure, 2 user error, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in programs.PROGRAMS:
        return programs.run_program(argv[0], argv[1:])
    parser = argparse.ArgumentParser(
        prog="latent-ae",
        description="Train, measure, use, serve and export image autoencoders. Every command has its own --help.",
    )
    parser.add_argument("--version", action="version", version=f"latent-ae {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for room in (programs, evaluate, files, inspection, space, export, verify, convert):
        room.add_commands(commands)
    words, settings = evaluate.split_settings(argv)
    if words[:1] == ["export"]:
        export.add_targets(commands.choices["export"], words)
    arguments, unknown = parser.parse_known_args(words)
    command: Callable[[argparse.Namespace], int] = arguments.run
    try:
        if hasattr(arguments, "rest"):
            arguments.rest = settings
        else:
            unknown += settings
        if unknown:
            raise UserError(f"unknown option {unknown[0]}; see latent-ae {arguments.command} --help")
        if (report := getattr(arguments, "json", None)) is not None and not report.parent.is_dir():
            raise UserError(f"--json {report}: there is no folder {report.parent}")
        return command(arguments)
    except UserError as error:
        complain(str(error))
        return 2
    except OSError as error:
        complain(f"{error.strerror or error}: {error.filename or 'while writing'}")
        return 1
    except KeyboardInterrupt:
        goes_on = "; the same command continues from there" if arguments.command in files.RESUMED else ""
        complain(f"interrupted: every file that was written is complete{goes_on}")
        return INTERRUPTED
