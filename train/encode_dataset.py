"""Turn a data set into latents; the file reads from top to bottom as one run.

    accelerate launch train/encode_dataset.py --model DIR --data.path DIR --out DIR [--FIELD VALUE ...]

    settings -> processes -> model, images -> manifest, new or compared -> { a shard by one process } -> index

It also runs under `torchrun` and as `python train/encode_dataset.py`. The data set's order is cut into shards, and a
shard does not depend on the process that makes it: the same command resumes a run that was killed, with any number of
processes, and gives the same bytes.
"""

if __name__ == "__main__":  # before the imports that it is for
    from latent_ae.cli.before_torch import leave_early
    from latent_ae.process import leave, own_process

    own_process()
    leave_early("encode-dataset", __file__)

import datetime
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from tqdm import tqdm

from latent_ae.config import ConfigError
from latent_ae.config.command_line import override, split_options
from latent_ae.config.implied import with_source
from latent_ae.config.listing import listed
from latent_ae.config.program_help import print_help
from latent_ae.config.programs import ENCODE_DATASET
from latent_ae.data.values import read_as
from latent_ae.errors import UserError, attempted
from latent_ae.inference import Codec
from latent_ae.inference.memory import available_bytes
from latent_ae.io.folder_lock import only_run
from latent_ae.io.model_place import pipeline_note
from latent_ae.latent_dataset.encoder import Encoder
from latent_ae.latent_dataset.images import Images
from latent_ae.latent_dataset.index import DUPLICATES, SKIPPED, Summary, write_index
from latent_ae.latent_dataset.manifest import Manifest
from latent_ae.latent_dataset.resume import Work, prepare, require_seen
from latent_ae.latent_dataset.settings import EncodeConfig, describe_work
from latent_ae.latent_dataset.writer import make_shards
from latent_ae.training.distributed import start_accelerator
from latent_ae.training.engine import run_program
from latent_ae.training.signals import StopRequest

T = TypeVar("T")

KEPT = "complete shards are kept, the same command resumes"
LONGEST_WAIT = datetime.timedelta(days=30)
"""of a process that has finished its shards for the others"""


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0 for success, 128 + N after signal N, 2 for an error of the user or the disk."""
    return run_program(lambda: run(parse(sys.argv[1:] if argv is None else argv)))


def parse(argv: list[str]) -> EncodeConfig:
    """Settings from the command line. Raises ConfigError, one line, for a setting that is missing, unknown or wrong."""
    options = split_options(argv)
    if (which := options.pop("help", None)) is not None:
        print_help(ENCODE_DATASET, list(listed(EncodeConfig(), {})), which=which, recipe={})
        raise SystemExit(0)
    ENCODE_DATASET.require(options)
    config = override(EncodeConfig, with_source({}, options), options)
    if idle := config.data.given_for_training():
        raise ConfigError(
            f"{idle} is a setting of training crops and has no effect here: omit it, and see --resolution and --flips"
        )
    return config


def run(config: EncodeConfig) -> int:
    """One run over all processes. Returns the exit status."""
    accelerator = start_accelerator(mixed_precision="no", accumulation=1)
    try:
        with StopRequest() as stop:
            return encode(config, accelerator, stop)
    except EncodingError:  # of all processes, for one to print
        if accelerator.is_main_process:
            raise
        return 2
    finally:
        accelerator.end_training()


def encode(config: EncodeConfig, accelerator: Accelerator, stop: StopRequest) -> int:
    """Open the model and the images, compare the folder's manifest, make missing shards, write the index."""
    # -- model, images
    codec = Codec.load(str(config.model), device=accelerator.device, precision="exact", tile=config.tile_pixels)
    source = read_as(codec.pixel_format, config.data, codec.name).open()
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
        # -- the folder: new, or the same latents with some of their shards
        def begin() -> Work:
            if (warning := held.enter_context(only_run(folder, instead="another --out"))) is not None:
                together.say(warning)
            return prepare(folder, wanted, images)

        work = together.on_main(begin)
        together.on_all(lambda: require_seen(folder, wanted))
        for damage in work.damaged:
            together.say(f"{damage}: the shard is made again")
        for line in filter(None, (pipeline_note(str(config.model)), *source.remarks)):
            together.say(line)
        together.say(describe(wanted, folder, len(work.missing), accelerator))

        # -- the shards of this process
        mine = work.missing[together.rank :: together.count]
        total = sum(len(wanted.unit(number)) for number in mine)
        with tqdm(total=total, unit="image", disable=None if together.main else True) as bar:
            shards = partial(make_shards, folder, wanted, images, encoder, mine, workers=config.data.workers)
            together.on_all(lambda: shards(stop=stop, on_image=bar.update), then=f": {KEPT}")
        if numbers := [number for number in together.gather(stop.signal) if number is not None]:
            together.say(f"{signal.Signals(numbers[0]).name}: {KEPT}")
            return 128 + numbers[0]

        # -- index, statistics, lists of what is left out
        summary = together.on_main(lambda: write_index(folder))
        together.say(describe_result(summary, folder) if summary.written else f"{folder} is complete")
    return 0


class EncodingError(UserError):
    """What went wrong on one process, raised on all; the message is one line."""


class Together:
    """Communication between the processes of a run."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.count, self.rank = accelerator.num_processes, accelerator.process_index
        self.main = accelerator.is_main_process
        # A group of its own: in the default group, waiting half an hour for another process ends the run.
        self._group = torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT) if self.count > 1 else None

    def gather(self, value: T) -> list[T]:
        """The value of each process, in the order of the ranks, on every process."""
        values = [value] * self.count
        if self.count > 1:
            torch.distributed.all_gather_object(values, value, group=self._group)
        return values

    def on_all(self, work: Callable[[], T], *, then: str = "") -> T:
        """The result of `work` for this process. Raises EncodingError on all processes, with the first problem of any
        and what follows from it.
        """
        done, problem = attempted(work)
        if problems := [each for each in self.gather(problem) if each is not None]:
            raise EncodingError(problems[0] + then)
        return done[0]

    def on_main(self, work: Callable[[], T]) -> T:
        """The result of the main process's work, on every process. Raises EncodingError."""
        done: list[Any] = self.gather(self.on_all(work if self.main else lambda: None))
        result: T = done[0]
        return result

    def say(self, text: str) -> None:
        """Print on the main process."""
        if self.main:
            print(text, flush=True)


def share_of_memory(device: torch.device) -> int | None:
    """Memory in bytes for each process of this machine; None on a GPU."""
    if device.type != "cpu":
        return None
    return available_bytes(device) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def describe(manifest: Manifest, folder: Path, missing: int, accelerator: Accelerator) -> str:
    """The work ahead, in one line."""
    pixels = manifest.preprocessing.pixel_format
    images = f"{manifest.images.count} images" + (f" ({pixels.describe()})" if pixels else "")
    what = f"{manifest.kind} in {manifest.dtype} of {images}"
    there = f", {manifest.shards - missing} exist" if missing < manifest.shards else ""
    count = accelerator.num_processes
    where = f"{count} {'process' if count == 1 else 'processes'} on {accelerator.device.type}"
    compute = manifest.compute
    how = "images whole" if compute.tile is None else f"images above {compute.tile} pixels a side in tiles"
    return f"{what}, {compute.precision}, {how}, by {where}: {manifest.shards} shards in {folder}{there}"


def describe_result(summary: Summary, folder: Path) -> str:
    """What was written, in one line or more."""
    lines = [f"{summary.rows} rows in {folder}"]
    if summary.tiled:
        lines.append(f"{summary.tiled} of them encoded in tiles, an approximation")
    if summary.skipped:
        finite = f", {summary.nonfinite} of them as their latents are not finite" if summary.nonfinite else ""
        lines.append(f"{summary.skipped} are left out{finite}: {folder / SKIPPED}")
    if summary.duplicates:
        lines.append(f"{summary.duplicates} images are the same as an earlier one: {folder / DUPLICATES}")
    return "\n".join(lines)


if __name__ == "__main__":
    leave(main())
