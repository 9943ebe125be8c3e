"""`latent-ae export`, `import`, `compat` and `push`: models for other programs, and back."""

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from latent_ae.cli.messages import complain, say
from latent_ae.cli.options import add_command, positive
from latent_ae.errors import UserError

if TYPE_CHECKING:
    from latent_ae.cli.options import Commands
    from latent_ae.export import Exporter, ModelSource

_MODEL = "a model or run directory, a single file or a hub id"
VARIANTS = ("fp32", "fp16", "bf16")
PROOF = (
    "What is written is loaded as its consumer loads it and compared with the model on held-out images and on noise; "
    "if it differs, nothing is left, and the exit status is 1. Settings of a run's `data` section follow as "
    "--data.FIELD VALUE; without any, images come from the photographs or digits that need no download."
)


def add_commands(commands: "Commands") -> None:
    """Add the four."""
    export = commands.add_parser(
        "export",
        help="a model for another program, with a proof that it works there",
        description="A model for another program. " + PROOF,
        allow_abbrev=False,
    )
    targets = export.add_subparsers(dest="target", required=True, metavar="TARGET")
    folder = _add_target(targets, "diffusers", _diffusers, "a folder for diffusers, alone or as a pipeline's vae/")
    folder.add_argument(
        "--variant",
        nargs="+",
        choices=VARIANTS,
        default=["fp32"],
        help="precisions of the weights, a file each: `variant=` loads fp16's and bf16's (default: fp32)",
    )
    file = _add_target(targets, "ldm", _ldm, "one file under latent-diffusion's names, and its config beside it")
    file.add_argument("--variant", choices=VARIANTS, default="fp32", help="precision of the weights (default: fp32)")
    file.add_argument(
        "--prefix", action="store_true", help="name tensors as in a whole checkpoint: first_stage_model.encoder. ..."
    )
    for name, function, summary in (
        ("onnx", _onnx, "two ONNX graphs, encoder and decoder, laid out as optimum's"),
        ("pt2", _pt2, "two programs of torch.export that run without diffusers"),
    ):
        _add_target(targets, name, function, summary).add_argument(
            "--size",
            type=_size,
            metavar="HxW",
            help="height and width in pixels: take one image of exactly this size at a time, for converters and "
            "runtimes that need fixed shapes (default: batches of any size)",
        )
    _add_import(commands)
    compat = add_command(
        commands,
        "compat",
        _compat,
        summary="which programs can use a model, and why others cannot",
        more="By its config alone: nothing is run. `warn` is a yes with something to know, such as a scale of latents "
        "that is built into a program. In brackets: the version of the program that this was run or read at.",
        example="runs/kl-photos/model",
    )
    compat.add_argument("model", metavar="MODEL", help=_MODEL)
    compat.add_argument("--json", type=Path, metavar="FILE", help="write the table there, a list with an object a row")
    push = add_command(
        commands,
        "push",
        _push,
        summary="upload a folder to the Hugging Face hub",
        more="Its README.md is the card. Log in with `hf auth login` before, or set HF_TOKEN.",
        example="runs/kl-photos/model OWNER/NAME --private",
    )
    push.add_argument("folder", metavar="DIR", type=Path, help="a model directory, or an export")
    push.add_argument("repo", metavar="REPO", help="OWNER/NAME, or a NAME of your own; made if it is not there")
    push.add_argument(
        "--private", action="store_true", help="for its owner's eyes alone; one that is public is refused"
    )


def _add_target(
    targets: "Commands", name: str, run: Callable[[argparse.Namespace], int], summary: str
) -> argparse.ArgumentParser:
    out = "vae.safetensors" if name == "ldm" else "vae"
    parser = targets.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. {PROOF}",
        epilog=f"example: latent-ae export {name} --model runs/kl-photos/model -o {out}",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, rest=[])
    parser.add_argument(
        "--model", required=True, metavar="MODEL", help="a model or run directory, a single file or a hub id"
    )
    kind = (
        "the file to make, NAME.safetensors; NAME.config/ is made beside it" if name == "ldm" else "the folder to make"
    )
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="OUT", help=kind)
    return parser


def _size(text: str) -> tuple[int, int]:
    """HxW, for argparse."""
    if not (match := re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", text)):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected height and width in pixels, as 512x768")
    return int(match[1]), int(match[2])


def _add_import(commands: "Commands") -> None:
    parser = add_command(
        commands,
        "import",
        _import,
        summary="a model directory from a single file",
        more="Of latent-diffusion's or diffusers' names, an autoencoder alone or a whole checkpoint. What tensors do "
        "not say comes from the file's metadata, if `latent-ae export ldm` wrote it, or from the options.",
        example="vae.safetensors -o model --scaling-factor 0.18215",
    )
    parser.add_argument(
        "file", metavar="FILE", type=Path, help="of tensors, safetensors or a pickle; or a run's checkpoint"
    )
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="DIR", help="the folder to make")
    parser.add_argument(
        "--norm-num-groups", type=positive, metavar="N", help="groups of the normalisations (default: 32)"
    )
    parser.add_argument("--scaling-factor", type=float, metavar="X", help="of the latents (default: 1)")
    parser.add_argument("--shift-factor", type=float, metavar="X", help="of the latents (default: 0)")
    parser.set_defaults(rest=[])


def _diffusers(arguments: argparse.Namespace) -> int:
    from latent_ae.export import DiffusersFolder  # noqa: PLC0415  # takes seconds, as all of these do

    return _export(arguments, DiffusersFolder(tuple(dict.fromkeys(arguments.variant))))


def _ldm(arguments: argparse.Namespace) -> int:
    from latent_ae.export import LdmFile  # noqa: PLC0415
    from latent_ae.export.ldm_file import PREFIX  # noqa: PLC0415

    return _export(arguments, LdmFile(prefix=PREFIX if arguments.prefix else "", variant=arguments.variant))


def _onnx(arguments: argparse.Namespace) -> int:
    from latent_ae.export import OnnxGraphs  # noqa: PLC0415

    return _export(arguments, OnnxGraphs(arguments.size))


def _pt2(arguments: argparse.Namespace) -> int:
    from latent_ae.export import Pt2Programs  # noqa: PLC0415

    return _export(arguments, Pt2Programs(arguments.size))


def _import(arguments: argparse.Namespace) -> int:
    from latent_ae.export import DiffusersFolder  # noqa: PLC0415
    from latent_ae.export.importing import Unsaid, read_single_file, unstated_scaling  # noqa: PLC0415
    from latent_ae.io.atomic import refuse_taken  # noqa: PLC0415

    exporter = DiffusersFolder(measure=False)
    refuse_taken(exporter.places(arguments.out))  # before the model is loaded
    unsaid = Unsaid(arguments.norm_num_groups, arguments.scaling_factor, arguments.shift_factor)
    status = _write(arguments, read_single_file(arguments.file, unsaid), exporter)
    if status == 0 and (warning := unstated_scaling(arguments.file, unsaid)) is not None:
        say(f"warning: {warning}")
    return status


def _export(arguments: argparse.Namespace, exporter: "Exporter") -> int:
    from latent_ae.export import ModelSource  # noqa: PLC0415
    from latent_ae.io.atomic import refuse_taken  # noqa: PLC0415

    refuse_taken(exporter.places(arguments.out))  # before the model is loaded
    return _write(arguments, ModelSource.load(arguments.model), exporter)


def _write(arguments: argparse.Namespace, source: "ModelSource", exporter: "Exporter") -> int:
    from latent_ae.config.command_line import override, split_options  # noqa: PLC0415
    from latent_ae.export import ProofFailed, export  # noqa: PLC0415
    from latent_ae.export.probes import USED, ProbeConfig  # noqa: PLC0415

    options = split_options(arguments.rest)
    if idle := [f"--{name}" for name in options if name not in {f"data.{used}" for used in USED}]:
        raise UserError(
            f"{', '.join(idle)} has no effect on an export: {', '.join(f'--data.{used}' for used in USED)} have"
        )
    data = override(ProbeConfig, {}, options).data if options else None
    try:
        exported = export(source, arguments.out, exporter, data=data)
    except ProofFailed as error:
        complain(f"{error}; nothing is left of {arguments.out}")
        return 1
    for warning in exported.warnings:
        say(f"warning: {warning}")
    worst = max(comparison.max_abs_difference for comparison in exported.proof.comparisons)
    exact = "the same to the last bit" if worst == 0 else f"within {worst:.2g} of the model"
    say(f"wrote {arguments.out}; {exported.proof.loader}: {exact}; {exported.report} has the figures")
    return 0


def _compat(arguments: argparse.Namespace) -> int:
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise UserError(f"--json {arguments.json}: there is no folder {arguments.json.parent}")

    from latent_ae.export import compat  # noqa: PLC0415
    from latent_ae.models import load_autoencoder  # noqa: PLC0415
    from latent_ae.models.loading import states_scaling  # noqa: PLC0415

    verdicts = compat(load_autoencoder(arguments.model))
    width = max(len(verdict.consumer) for verdict in verdicts)
    for verdict in verdicts:
        word = "warn" if verdict.warnings else "yes" if verdict.works else "no"
        why = verdict.note if verdict.works else "; ".join(verdict.reasons)
        if verdict.silent:
            why = f"it loads without an error and is wrong: {why}"
        say(f"{word:4}  {verdict.consumer:{width}}  {why} [{verdict.seen}]")
        for warning in verdict.warnings:
            say(f"{'':4}  {'':{width}}  but {warning}")
    if not states_scaling(arguments.model):
        say(
            f"warning: {arguments.model} does not state the scale of its latents, which every yes presumes: "
            "`latent-ae import --scaling-factor` makes a model directory that does"
        )
    if arguments.json is not None:
        table = [asdict(verdict) for verdict in verdicts]
        arguments.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return 0


def _push(arguments: argparse.Namespace) -> int:
    from latent_ae.export.push import push  # noqa: PLC0415

    url = push(arguments.folder, arguments.repo, private=arguments.private)
    say(f"uploaded {arguments.folder} to {url}")
    return 0
