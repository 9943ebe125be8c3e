"""Where a run says how it goes: metrics.jsonl, heldout.jsonl, a tracker, a progress bar.

Only the main process writes.
"""

import json
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tqdm import tqdm

from latent_ae.config import RunSettings, flatten
from latent_ae.errors import UserError
from latent_ae.io.atomic import append, write_atomically

T = TypeVar("T")


class Logbook:
    """One object for everything a run logs.

    Args:
        config: the run's settings, which are recorded with the tracker.
        first_step: updates made before this process: later lines of an interrupted run are cut off.
        active: whether this is the main process.
    """

    def __init__(self, config: RunSettings, *, first_step: int, active: bool) -> None:
        run_dir, tracker = config.run_dir, config.train.tracker
        self._metrics, self._heldout = run_dir / "metrics.jsonl", run_dir / "heldout.jsonl"
        self.active = active
        """whether it is this process that writes"""
        self._clock = (time.perf_counter(), 0)
        self._waited = 0.0
        if active:
            for file in (self._metrics, self._heldout):
                _cut_after(file, first_step)
        self._bar = tqdm(
            total=config.train.steps,
            initial=first_step,
            desc=config.name,
            unit="step",
            dynamic_ncols=True,
            disable=not active,
            smoothing=0.05,
        )
        self._tensorboard: Any = None
        self._wandb: Any = None
        if active and tracker == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # only if it is asked for

            self._tensorboard = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step + 1)
        if active and tracker == "wandb":
            self._wandb = _start_wandb(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if error is None else 1)

    def advance(self, images: int, *, loss: float, psnr: float | None = None) -> None:
        """Count one update of `images` images on the bar."""
        started, seen = self._clock
        self._clock = (started, seen + images)
        shown = {"loss": f"{loss:.4f}"} | ({} if psnr is None else {"psnr": f"{psnr:.2f}dB"})
        self._bar.set_postfix(shown | {"imgs": f"{self.images_per_second():.0f}/s"}, refresh=False)
        self._bar.update()

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, with the time that the loop waits for each taken down."""
        iterator = iter(batches)
        while True:
            started = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - started
            yield batch

    def images_per_second(self) -> float:
        """Over all processes, since the last logged line."""
        started, seen = self._clock
        return seen / max(1e-9, time.perf_counter() - started)

    def log(self, step: int, values: dict[str, float | int | None]) -> None:
        """One line of metrics.jsonl and one point at the tracker, with the speed since the last.

        `data_wait_share` is the share of that time in which this process waited for images.
        """
        if not self.active:
            return
        now, (started, seen) = time.perf_counter(), self._clock
        elapsed = max(1e-9, now - started)
        speed = {"images_per_second": round(seen / elapsed, 2), "data_wait_share": round(self._waited / elapsed, 4)}
        self._clock, self._waited = (now, 0), 0.0
        self._record(self._metrics, step, {**values, **speed})

    def heldout(self, step: int, values: dict[str, float]) -> None:
        """One line of heldout.jsonl and one point at the tracker: what was measured in the middle of a run."""
        if self.active:
            _cut_after(self._heldout, step - 1)  # of the same step, before the run went on from its checkpoint
            self._record(self._heldout, step, {f"heldout_{name}": value for name, value in values.items()})

    def _record(self, where: Path, step: int, values: dict[str, float | int | None]) -> None:
        finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        line = {"step": step, **{name: finite.get(name) for name in values}}  # JSON has no NaN
        append(where, json.dumps(line) + "\n")
        if self._tensorboard is not None:
            for name, value in finite.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(finite, step=step)

    def picture(self, step: int, name: str, file: Path) -> None:
        """Show a picture that was written to a file at the tracker too."""
        if self._tensorboard is not None:
            import numpy as np  # noqa: PLC0415
            from PIL import Image  # noqa: PLC0415

            self._tensorboard.add_image(name, np.asarray(Image.open(file).convert("RGB")), step, dataformats="HWC")
        if self._wandb is not None:
            import wandb  # noqa: PLC0415

            self._wandb.log({name: wandb.Image(str(file))}, step=step)

    def say(self, text: str) -> None:
        """Print without breaking the progress bar; the main process alone."""
        if self.active:
            tqdm.write(text)


def _cut_after(file: Path, step: int) -> None:
    """Drop the lines of steps after `step`, which an interrupted run logged but did not save."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue  # half a line, from a process that was killed while writing
    write_atomically(file, "".join(kept).encode())


def _start_wandb(config: RunSettings) -> Any:
    try:
        import wandb  # noqa: PLC0415  # an extra
    except ImportError:
        raise UserError('train.tracker wandb needs wandb: pip install -e ".[wandb]"') from None
    name, settings = config.name, flatten(config.model_dump(mode="json"))
    return wandb.init(project="latent_ae", name=name, dir=str(config.run_dir), config=settings, id=name, resume="allow")
