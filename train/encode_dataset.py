"""Turn a data set into latents: read from top to bottom, this is a whole run.

    accelerate launch train/encode_dataset.py --model DIR --data.source NAME --out DIR [--FIELD VALUE ...]

    settings -> processes -> model, images -> manifest, or what is there -> { a shard, whole, by one process } -> index

It runs the same way under `torchrun` and as plain `python train/encode_dataset.py`. The work is cut into shards by the
data set's order; nothing in a shard depends on who makes it, so that a run that was killed goes on by the same command,
with any number of processes, and ends in the same bytes.
"""

import datetime
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from tqdm import tqdm

from latent_ae.config import ConfigError
from latent_ae.config.command_line import override, print_help, split_options
from latent_ae.errors import UserError
from latent_ae.inference import Codec
from latent_ae.inference.memory import available_bytes
from latent_ae.io.folder_lock import only_run
from latent_ae.latent_dataset.encoder import Encoder
from latent_ae.latent_dataset.images import Images
from latent_ae.latent_dataset.index import DUPLICATES, SKIPPED, Summary, write_index
from latent_ae.latent_dataset.manifest import Manifest
from latent_ae.latent_dataset.resume import Work, prepare, require_seen
from latent_ae.latent_dataset.settings import EncodeConfig, describe_work
from latent_ae.latent_dataset.writer import make_shards
from latent_ae.training.distributed import start_accelerator
from latent_ae.training.signals import StopRequest

T = TypeVar("T")

PROGRAM = "encode_dataset.py"
LONGEST_WAIT = datetime.timedelta(days=30)
"""of a process that is through with its shards for the others"""


def main(argv: list[str] | None = None) -> int:
    """Run it; the exit status: 0 for success, 128 + N after signal N, 2 for an error of the user or the disk."""
    try:
        return run(parse(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {in_a_line(error)}", file=sys.stderr)
    return 2


def parse(argv: list[str]) -> EncodeConfig:
    """Settings from the command line. Raises ConfigError with one line for anything missing, unknown or wrong."""
    options = split_options(argv)
    if options.pop("help", None) is not None:
        print_help(EncodeConfig(), PROGRAM, "Turn a data set into latents; the same command goes on after a kill.")
        raise SystemExit(0)
    for name, what in (("model", "MODEL"), ("data.source", "NAME"), ("out", "DIR")):
        if options.get(name) is None:
            raise ConfigError(f"--{name} {what} has to be given; --help lists all settings")
    config = override(EncodeConfig, {}, options)
    if idle := config.data.given_for_training():
        raise ConfigError(
            f"{idle} cuts training images and has no effect on what is encoded: leave it out (--resolution "
            "and --flips say what is encoded)"
        )
    return config


def run(config: EncodeConfig) -> int:
    """One run over all processes. Returns the exit status."""
    accelerator = start_accelerator(mixed_precision="no", accumulation=1)
    try:
        with StopRequest() as stop:
            return encode(config, accelerator, stop)
    finally:
        accelerator.end_training()


def encode(config: EncodeConfig, accelerator: Accelerator, stop: StopRequest) -> int:
    """Open, compare with what is there, make what is missing, write the index."""
    # -- model, images
    codec = Codec.load(str(config.model), device=accelerator.device, precision="exact", tile=config.tile_pixels)
    source = config.data.open()
    images = Images(source, config.part, label_column=config.label_column, caption_column=config.caption_column)
    encoder = Encoder(
        codec,
        precision=config.precision,
        logvar=config.logvar,
        dtype=config.dtype,
        threads=torch.get_num_threads(),
        memory_bytes=share_of_memory(accelerator.device),
    )
    wanted = describe_work(config, images, encoder)
    folder = Path(str(config.out))
    together = Together(accelerator)
    with ExitStack() as held, encoder:
        # -- what is there: the same latents, and some of their shards
        def begin() -> Work:
            if (warning := held.enter_context(only_run(folder, instead="another --out"))) is not None:
                together.say(warning)
            return prepare(folder, wanted, images)

        work, problem = together.on_main(begin)
        if problem is None:
            problem = together.first(attempted(lambda: require_seen(folder, wanted))[1])
        if work is None or problem is not None:
            return together.complain(problem)
        for damage in work.damaged:
            together.say(f"{damage}: the shard is made anew")
        if source.left_out:
            together.say(source.left_out)
        together.say(describe(wanted, folder, len(work.missing), accelerator))

        # -- the shards of this process
        problem = make(
            folder,
            wanted,
            images,
            encoder,
            work.missing[together.rank :: together.count],
            workers=config.data.workers,
            stop=stop,
            watched=together.main,
        )
        outcomes = together.gather((problem, stop.signal))
        if problems := [problem for problem, _ in outcomes if problem is not None]:
            return together.complain(f"{problems[0]}: the shards that are complete stay, the same command goes on")
        if numbers := [number for _, number in outcomes if number is not None]:
            together.say(f"{signal.Signals(numbers[0]).name}: what is complete stays, the same command goes on")
            return 128 + numbers[0]

        # -- index, statistics, lists of what is left out
        summary, problem = together.on_main(lambda: write_index(folder))
        if summary is None:
            return together.complain(problem)
        together.say(describe_result(summary, folder) if summary.written else f"{folder} is complete")
    return 0


def make(
    folder: Path,
    manifest: Manifest,
    images: Images,
    encoder: Encoder,
    shards: list[int],
    *,
    workers: int,
    stop: StopRequest,
    watched: bool,
) -> str | None:
    """Make the shards of this process, with a progress bar if anybody watches it; what went wrong, None if nothing."""
    total = sum(len(manifest.unit(number)) for number in shards)
    with tqdm(total=total, unit="image", disable=None if watched else True) as bar:
        _, problem = attempted(
            lambda: make_shards(
                folder, manifest, images, encoder, shards, workers=workers, stop=stop, on_image=bar.update
            )
        )
    return problem


class Together:
    """What the processes of a run tell one another."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.count, self.rank = accelerator.num_processes, accelerator.process_index
        self.main = accelerator.is_main_process
        # A group of its own: others end the run if one process waits half an hour for another's shards.
        self._group = torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT) if self.count > 1 else None

    def gather(self, value: T) -> list[T]:
        """One value of each process, in the order of the ranks, on every process."""
        values = [value] * self.count
        if self.count > 1:
            torch.distributed.all_gather_object(values, value, group=self._group)
        return values

    def on_main(self, work: Callable[[], T]) -> tuple[T | None, str | None]:
        """What the main process's work gives, or what went wrong with it, on every process."""
        return self.gather(attempted(work) if self.main else (None, None))[0]

    def first(self, problem: str | None) -> str | None:
        """Of what any process finds wrong, on every process."""
        return next((each for each in self.gather(problem) if each is not None), None)

    def say(self, text: str) -> None:
        """Once."""
        if self.main:
            print(text, flush=True)

    def complain(self, problem: str | None) -> int:
        """Once; the exit status of an error."""
        if self.main:
            print(f"error: {problem}", file=sys.stderr)
        return 2


def attempted(work: Callable[[], T]) -> tuple[T | None, str | None]:
    """What `work` gives, or else what is wrong, in a line."""
    try:
        return work(), None
    except UserError as error:
        return None, str(error)
    except OSError as error:
        return None, in_a_line(error)


def share_of_memory(device: torch.device) -> int | None:
    """Of this machine's memory, for a process; None where it has a device of its own."""
    if device.type != "cpu":
        return None
    return available_bytes(device) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def in_a_line(error: OSError) -> str:
    """What the system says, and of which file."""
    return f"{error.strerror or error}: {error.filename or 'while writing'}"


def describe(manifest: Manifest, folder: Path, missing: int, accelerator: Accelerator) -> str:
    """What is to be done."""
    what = f"{manifest.kind} in {manifest.dtype} of {manifest.images.count} images"
    there = f", {manifest.shards - missing} are there" if missing < manifest.shards else ""
    count = accelerator.num_processes
    where = f"{count} {'process' if count == 1 else 'processes'} on {accelerator.device.type}"
    compute = manifest.compute
    how = "images whole" if compute.tile is None else f"images above {compute.tile} pixels a side in tiles"
    return f"{what}, {compute.precision}, {how}, by {where}: {manifest.shards} shards in {folder}{there}"


def describe_result(summary: Summary, folder: Path) -> str:
    """What was done."""
    lines = [f"{summary.rows} rows in {folder}"]
    if summary.tiled:
        lines.append(f"{summary.tiled} of them of images in tiles, an approximation")
    if summary.skipped:
        finite = f", {summary.nonfinite} of them for latents that are not finite" if summary.nonfinite else ""
        lines.append(f"{summary.skipped} are left out{finite}: {folder / SKIPPED}")
    if summary.duplicates:
        lines.append(f"{summary.duplicates} images are the same as one before them: {folder / DUPLICATES}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
