"""`latent-ae ...`: argument parsing and messages only.

Nothing here imports torch before a command needs it, so that help and the version come at once.
"""

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable

from latent_ae._version import __version__
from latent_ae.cli import (
    attributes,
    datasets,
    evaluate,
    export,
    files,
    fitting,
    inspection,
    latent_map,
    programs,
    space,
)
from latent_ae.cli.options import RENAMED, OneLineParser, check_inputs, check_models
from latent_ae.cli.output import complain
from latent_ae.errors import UserError, file_error
from latent_ae.process import own_process

__all__ = ["main", "program"]

INTERRUPTED = 130
"""exit status after SIGINT, as shells report it"""


def program() -> int:
    """`latent-ae` in a process of its own. Returns the exit status, as `main`."""
    own_process()
    return main()


def main(argv: list[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0 complete success, 1 failure, 2 user error, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in programs.PROGRAMS:
        return programs.run_program(argv[0], argv[1:])
    parser = OneLineParser(
        prog="latent-ae",
        description="Train, measure, use, serve and export image autoencoders. Every command has its own --help.",
    )
    parser.add_argument("--version", action="version", version=f"latent-ae {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (programs, evaluate, files, inspection, space, latent_map, attributes, export, datasets, fitting):
        module.add_commands(commands)
    if argv and not argv[0].startswith("-") and argv[0] not in commands.choices:
        complain(_unknown_command(argv[0], commands.choices))
        return 2
    words, settings = evaluate.split_settings(argv)
    arguments, unknown = parser.parse_known_args(words)
    command: Callable[[argparse.Namespace], int] = arguments.run
    try:
        files.refuse_seed_of_sample(argv)
        if hasattr(arguments, "rest"):
            arguments.rest = settings
        else:
            unknown += settings
        if unknown:
            new = RENAMED.get(f"{arguments.command} {unknown[0]}")
            known = f"use {new}" if new else f"see latent-ae {arguments.command} --help"
            raise UserError(f"unknown {'option' if unknown[0].startswith('-') else 'argument'} {unknown[0]}; {known}")
        if (report := getattr(arguments, "json", None)) is not None and not report.parent.is_dir():
            raise UserError(f"--json {report}: the folder {report.parent} does not exist")
        check_arguments(arguments)
        return command(arguments)
    except UserError as error:
        complain(str(error))
        return 2
    except OSError as error:
        complain(file_error(error))
        return 1
    except KeyboardInterrupt:
        resumes = "; the same command continues from there" if arguments.command in files.RESUMED else ""
        complain(f"interrupted: every file that was written is complete{resumes}")
        return INTERRUPTED


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse what is not there before torch is imported for it. Raises UserError."""
    check_inputs(arguments)
    check_models(arguments)
    evaluate.check_settings(arguments)


def _unknown_command(word: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    return f"unknown command {word!r}; {hint}"
