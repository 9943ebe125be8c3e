"""One training run: all of its settings, and how they are read from a recipe and the command line."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from latent_ae.config import (
    AdversarialConfig,
    ConfigError,
    EvaluationConfig,
    TrainConfig,
    flatten,
    load_yaml,
)
from latent_ae.config.command_line import override, split_options
from latent_ae.config.implied import describe_shortened, shortened, with_source
from latent_ae.config.listing import listed
from latent_ae.config.program_help import print_help
from latent_ae.config.programs import TRAIN
from latent_ae.config.recipes import DEFAULT_RECIPE, find_recipe
from latent_ae.config.section import CountOrNone, Section
from latent_ae.data import SOURCES, AnySource, DigitsConfig
from latent_ae.models import PRESETS
from latent_ae.models.bottlenecks import BOTTLENECKS
from latent_ae.models.parts import CODEBOOK, ENCODER_NETWORK, learns
from latent_ae.models.settings import AutoencoderConfig
from latent_ae.training.best import BestWeights
from latent_ae.training.gan.losses import ADVERSARIAL
from latent_ae.training.losses import RECONSTRUCTION

NAMES: Mapping[str, Iterable[str]] = {
    "model.preset": PRESETS,
    "loss.reconstruction": RECONSTRUCTION,
    "adversarial.loss": ("none", *ADVERSARIAL),
}
"""settings that take a name of a table"""
Preflight = Literal["on", "only"]
FREE_TO_CHANGE = (
    "name",
    "output_dir",
    "data.workers",
    "data.max_bad_share",
    "train.accumulation",
    "train.channels_last",
    "train.log_every_steps",
    "train.sample_every_steps",
    "train.patience",
    "train.min_improvement",
    "train.checkpoint_every_steps",
    "train.keep_checkpoints",
    "train.tracker",
    "evaluation.pixels_at_once",
)
VALIDATION = ("train.evaluate_every_steps", "evaluation.")
"""settings that decide which weights are the best, where the run keeps them"""


class RunConfig(AutoencoderConfig):
    """One training run."""

    name: str = "run"
    """the run's folder under output_dir"""
    output_dir: str = "runs"
    """folder of all runs"""
    seed: CountOrNone = 0
    """every random number of the run follows from it"""
    data: AnySource = DigitsConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def run_dir(self) -> Path:
        """Where everything the run writes goes."""
        return Path(self.output_dir) / self.name

    @property
    def free_to_change(self) -> tuple[str, ...]:
        """All but those that change which model results."""
        return FREE_TO_CHANGE if self.train.keep_best else (*FREE_TO_CHANGE, *VALIDATION)

    def ends_early(self, values: Mapping[str, object]) -> bool:
        """Whether patience ends the run at a checkpoint with these values, though updates are left."""
        if (best := BestWeights.of(self.train)) is None:
            return False
        best.restore(values["best"], {})
        return best.over

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        _check_name("loss.reconstruction", self.loss.reconstruction, RECONSTRUCTION)
        _check_name("adversarial.loss", self.adversarial.loss, ("none", *ADVERSARIAL))
        for measure, missing in {
            "perceptual": "evaluation.perceptual" if self.evaluation.perceptual == "none" else None,
            "rfid": None if self.evaluation.fid else "evaluation.fid true",
            **dict.fromkeys(("mae", "rmse"), None if self.data.reads_numbers else "data.value_range, or take l1"),
        }.items():
            if self.train.keep_best == measure and missing is not None:
                raise ValueError(f"train.keep_best {measure} is not measured in this run: give {missing}")
        if self.adversarial.skip_above_grad_norm is not None and not self.train.max_skips_in_a_row:
            raise ValueError("adversarial.skip_above_grad_norm needs train.max_skips_in_a_row, which ends a wild run")
        if self.adversarial.start_step >= self.train.steps and self.adversarial.loss != "none":
            raise ValueError(
                f"adversarial.start_step {self.adversarial.start_step} is not before the last of train.steps "
                f"{self.train.steps}: the autoencoder would never see the discriminator"
            )
        return self


def _check_name(setting: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(f"{setting}: got {name!r}, expected one of {', '.join(known)}")


def resolved(config: RunConfig, *, precision: str, device_type: str) -> RunConfig:
    """The settings with what they leave to the launcher (precision), the device (memory layout) and the bottleneck
    (weights of its terms) filled in: a term that would train nothing gets the weight 0.

    Raises ConfigError for a setting that a frozen encoder leaves without effect.
    """
    channels_last = config.train.channels_last
    if channels_last is None:
        # torch's normalisation for a GPU knows torch's own order alone, and all else is turned around for it.
        channels_last = device_type == "cpu" and precision != "no"
    train = config.train.model_copy(update={"mixed_precision": precision, "channels_last": channels_last})
    trained = config.model.trained
    codebook = learns(trained, CODEBOOK)
    if not codebook:
        config.bottleneck.check_frozen_codebook()
    encoder = any(learns(trained, module) for module in ENCODER_NETWORK)
    loss = config.loss.with_defaults(encoder=encoder, codebook=codebook)
    return config.model_copy(update={"train": train, "loss": loss})


@dataclass(frozen=True)
class Invocation:
    """What was asked for: the run's settings, and how to start this time."""

    config: RunConfig
    resume: str
    """auto, never, changed-data, or the path of a checkpoint"""
    preflight: Preflight
    note: str = ""
    """what was changed in the recipe without being asked for, one line"""


def parse_run(argv: list[str], recipes: Path) -> Invocation:
    """Settings of a training run from its command line.

    Args:
        argv: without the program's name.
        recipes: folder of the YAML files that `--config NAME` means.

    Raises ConfigError with one line for anything unknown or wrong. `--help` prints every setting and exits.
    """
    options = split_options(argv)
    recipe = find_recipe(options.pop("config", DEFAULT_RECIPE), recipes)
    resume = _text(options.pop("resume", "auto"), "resume")
    preflight = _text(options.pop("preflight", "on"), "preflight")
    if preflight not in ("on", "only"):
        raise ConfigError(f"--preflight: got {preflight!r}, expected on or only")
    tree = load_yaml(recipe)
    tree.setdefault("name", recipe.stem)
    which = options.pop("help", None)
    _drop_what_a_choice_replaces(tree, options)
    tree = with_source(tree, options)
    if which is not None:
        _name_what_is_required(tree, options)
    shorter = shortened(settings := flatten(tree), options)
    config = override(RunConfig, tree, {**options, **shorter})
    if which is not None:
        print_help(TRAIN, list(listed(config, NAMES)), which=which, recipe={}, recipes=recipes)
        raise SystemExit(0)
    note = describe_shortened(settings, shorter, config.train.steps)
    return Invocation(config, resume, "only" if preflight == "only" else "on", note)


def stand_ins(section: str, kind: object) -> dict[str, object]:
    """Values for the settings without default that a kind of a section has, for help: a path of images, levels."""
    tables: dict[str, Mapping[str, type[Section]]] = {"data": SOURCES, "bottleneck": BOTTLENECKS}
    entry = tables.get(section, {}).get(str(kind))
    fields = {} if entry is None else entry.model_fields
    return {
        name: field.examples[0] if field.examples else name.upper()
        for name, field in fields.items()
        if field.is_required()
    }


def _name_what_is_required(tree: dict[str, object], options: dict[str, object]) -> None:
    """Stand-ins for the settings without default, for which help is given too."""
    for section, key in (("data", "source"), ("bottleneck", "kind")):
        given = tree.get(section)
        given = given if isinstance(given, dict) else {}
        for name, value in stand_ins(section, options.get(f"{section}.{key}", given.get(key))).items():
            if name not in given:
                options.setdefault(f"{section}.{name}", value)


def _text(value: object, option: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"--{option} needs one value")
    return value


def _drop_what_a_choice_replaces(tree: dict[str, object], options: dict[str, object]) -> None:
    """`--model.init_from` on the command line takes the place of the recipe's own architecture, and of nothing else."""
    if options.get("model.init_from") is not None:
        given = tree.get("model")
        kept = {name: given[name] for name in ("trained", "dtype") if name in given} if isinstance(given, dict) else {}
        tree["model"] = {"preset": None} | kept
