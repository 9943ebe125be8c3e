"""`latent-ae export`, `import`, `compat` and `push`: models for other programs, and back."""

import argparse
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from latent_ae.cli.options import MODEL_HELP, Commands, add_command, add_json, positive
from latent_ae.cli.output import complain, say, write_json
from latent_ae.errors import UserError
from latent_ae.export import EXPORTERS, compat

if TYPE_CHECKING:
    from latent_ae.export.exporter import Exporter
    from latent_ae.export.source import ModelSource

PROOF = (
    "The export is loaded by its consumer and compared with the model on held-out images and on noise. If it differs, "
    "it is removed and the exit status is 1. The images can be chosen by the settings `data` of a run, given as "
    "--data.FIELD VALUE (default: photographs or digits that need no download)."
)


def add_commands(commands: Commands) -> None:
    """Add the four."""
    export = commands.add_parser(
        "export",
        help="write a model for another program, and check it there",
        description="Write a model for another program. " + PROOF,
        allow_abbrev=False,
    )
    targets = export.add_subparsers(dest="target", required=True, metavar="TARGET")
    for name, exporter in EXPORTERS.items():
        example, out_help = exporter.out
        parser = add_command(
            targets,
            name,
            _export,
            summary=exporter.summary,
            more=PROOF,
            example=f"--model runs/kl-photos/model -o {example}",
        )
        parser.set_defaults(rest=[])
        parser.add_argument("--model", required=True, metavar="MODEL", help=MODEL_HELP)
        parser.add_argument("-o", "--out", required=True, type=Path, metavar="OUT", help=out_help)
        exporter.add_options(parser)
    _add_import(commands)
    compat = add_command(
        commands,
        "compat",
        _compat,
        summary="list the programs that can use a model, and why others cannot",
        more="Judges by the model's config: nothing is run. `warn`: it works with a limitation, such as a fixed scale "
        "of latents. In brackets: the version of the program, and whether it was run or its source was read.",
        example="runs/kl-photos/model",
    )
    compat.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_json(compat, "the table, a list with one object per row,")
    push = add_command(
        commands,
        "push",
        _push,
        summary="upload a folder to the Hugging Face hub",
        more="Its README.md is the model card. Log in with `hf auth login` first, or set HF_TOKEN.",
        example="runs/kl-photos/model OWNER/NAME --private",
    )
    push.add_argument("folder", metavar="DIR", type=Path, help="a model directory, or an export")
    push.add_argument("repo", metavar="REPO", help="OWNER/NAME, or NAME for your own; created if it does not exist")
    push.add_argument(
        "--private", action="store_true", help="create a private repository; an existing public one is refused"
    )


def _add_import(commands: Commands) -> None:
    parser = add_command(
        commands,
        "import",
        _import,
        summary="create a model directory from a single file",
        more="The file holds an autoencoder or a whole checkpoint, under latent-diffusion's or diffusers' names. What "
        "tensors do not determine comes from the metadata that `latent-ae export ldm` writes, or from the options.",
        example="vae.safetensors -o model --scaling-factor 0.18215",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a safetensors file or pickle, or a run's checkpoint")
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="DIR", help="the folder to create")
    parser.add_argument(
        "--norm-num-groups", type=positive, metavar="N", help="number of normalisation groups (default: 32)"
    )
    parser.add_argument("--scaling-factor", type=float, metavar="X", help="scaling_factor of the latents (default: 1)")
    parser.add_argument("--shift-factor", type=float, metavar="X", help="shift_factor of the latents (default: 0)")
    parser.set_defaults(rest=[])


def _export(arguments: argparse.Namespace) -> int:
    from latent_ae.export.source import ModelSource
    from latent_ae.io.atomic import refuse_taken

    target, given = EXPORTERS[arguments.target], vars(arguments)
    options = {field.name: given[field.name] for field in fields(target) if field.name in given}
    distinct = {name: tuple(dict.fromkeys(each)) if isinstance(each, list) else each for name, each in options.items()}
    exporter = target(**distinct)
    refuse_taken(exporter.places(arguments.out))  # before the model is loaded
    return _write(arguments, ModelSource.load(arguments.model), exporter)


def _import(arguments: argparse.Namespace) -> int:
    from latent_ae.export.diffusers_folder import DiffusersFolder
    from latent_ae.export.source import read_single_file, unstated_scaling
    from latent_ae.io.atomic import refuse_taken

    exporter = DiffusersFolder(measure=False)
    refuse_taken(exporter.places(arguments.out))  # before the model is loaded
    source = read_single_file(
        arguments.file,
        norm_num_groups=arguments.norm_num_groups,
        scaling_factor=arguments.scaling_factor,
        shift_factor=arguments.shift_factor,
    )
    status = _write(arguments, source, exporter)
    if status == 0 and arguments.scaling_factor is None and (warning := unstated_scaling(arguments.file)) is not None:
        say(f"warning: {warning}")
    return status


def _write(arguments: argparse.Namespace, source: "ModelSource", exporter: "Exporter") -> int:
    from latent_ae.config.command_line import override, split_options
    from latent_ae.config.implied import with_source
    from latent_ae.export.exporter import export
    from latent_ae.export.proof import ProbeConfig, ProofFailed

    options = split_options(arguments.rest)
    data = None
    if options:
        of_data = {name: value for name, value in options.items() if name.startswith("data.")}
        data = override(ProbeConfig, with_source({}, of_data), of_data).data
        used = [f"data.{name}" for name in data.choice()]
        if idle := [f"--{name}" for name in options if name not in used]:
            raise UserError(f"{', '.join(idle)} has no effect on an export; use --{', --'.join(used)}")
    try:
        exported = export(source, arguments.out, exporter, data=data)
    except ProofFailed as error:
        complain(f"{error}; {arguments.out} was not written")
        return 1
    for warning in exported.warnings:
        say(f"warning: {warning}")
    worst = max(comparison.max_abs_difference for comparison in exported.proof.comparisons)
    exact = "the same to the last bit" if worst == 0 else f"within {worst:.2g} of the model"
    say(f"wrote {arguments.out}; {exported.proof.loader}: {exact}; figures in {exported.report}")
    return 0


def _compat(arguments: argparse.Namespace) -> int:
    from latent_ae.models import load_autoencoder
    from latent_ae.models.loading import load_pixel_format, states_scaling

    model = load_autoencoder(arguments.model)
    verdicts, pixels = compat(model), load_pixel_format(arguments.model, model)
    width = max(len(verdict.consumer) for verdict in verdicts)
    for verdict in verdicts:
        word = "warn" if verdict.warnings else "yes" if verdict.works else "no"
        why = verdict.note if verdict.works else "; ".join(verdict.reasons)
        if verdict.silent:
            why = f"it loads without an error and gives wrong results: {why}"
        say(f"{word:4}  {verdict.consumer:{width}}  {why} [{verdict.seen}]")
        for warning in verdict.warnings:
            say(f"{'':4}  {'':{width}}  but {warning}")
    if pixels.numbers or pixels.alpha != "none":
        say(
            f"its images are {pixels.describe()}, which these programs give and take as values in [-1, 1]; "
            "pixel_format.json, which exports carry, says what these stand for"
        )
    if not states_scaling(arguments.model):
        say(
            f"warning: {arguments.model} does not state the scale of its latents, and every yes assumes that it is "
            "right; `latent-ae import --scaling-factor` creates a model directory that states it"
        )
    write_json(arguments.json, [asdict(verdict) for verdict in verdicts])
    return 0


def _push(arguments: argparse.Namespace) -> int:
    from latent_ae.export.push import push

    url = push(arguments.folder, arguments.repo, private=arguments.private)
    say(f"uploaded {arguments.folder} to {url}")
    return 0
