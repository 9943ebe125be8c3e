"""The settings of a run that trains a prior, whatever its kind, and how they are read from the command line."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from latent_ae.config import ConfigError, OptimizationConfig, Section, flatten, validate
from latent_ae.config.command_line import override, split_options
from latent_ae.config.implied import describe_shortened, shortened
from latent_ae.config.kinds import Kinds
from latent_ae.config.listing import listed
from latent_ae.config.program_help import print_help
from latent_ae.config.programs import TRAIN_PRIOR
from latent_ae.config.section import Count, CountOrNone, Positive
from latent_ae.priors import PRIORS
from latent_ae.priors.hierarchy import HierarchyConfig
from latent_ae.priors.prior import PriorConfig
from latent_ae.training.checkpoint.resume import CHANGED_DATA

AnyPrior = Annotated[
    SerializeAsAny[PriorConfig],
    BeforeValidator(Kinds("prior", "prior.kind", "hierarchy", lambda: PRIORS)),
]
"""a section `prior`: the settings of one kind"""


class PriorTrainConfig(OptimizationConfig):
    """The optimisation and what is written on the way."""

    steps: Count = 1500
    """updates of the weights"""
    batch_size: Count = 128
    """latents per update over all processes and micro-batches: the global batch"""
    learning_rate: Positive = 1e-3
    """peak learning rate of AdamW"""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """learning rate after the warm-up: constant, or down to final_learning_rate_share at the last step"""
    warmup_steps: CountOrNone = 100
    """steps over which the learning rate rises linearly"""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.998
    """decay of the averaged weights that are sampled from and exported"""
    workers: CountOrNone = 0
    """processes that read latents ahead; they lie in memory, so that few networks are fast enough to need any"""
    log_every_steps: Count = 50
    """a line in metrics.jsonl and the tracker"""
    sample_every_steps: CountOrNone = 0
    """a grid of draws; 0 draws it at the end only"""


class PriorRunConfig(Section):
    """One run on latents."""

    latents: str | None = None
    """folder that train/encode_dataset.py made; required"""
    model: str | None = None
    """the autoencoder that made them; null takes the one that their manifest names"""
    name: str = "prior"
    """the run's folder under output_dir"""
    output_dir: str = "runs"
    """folder of all runs"""
    seed: CountOrNone = 0
    """every random number of the run follows from it"""
    prior: AnyPrior = HierarchyConfig()
    train: PriorTrainConfig = PriorTrainConfig()

    @model_validator(mode="before")
    @classmethod
    def _saved_by_earlier_versions(cls, tree: Any) -> Any:
        """Gather a prior's settings from where its `MOVED` says that they were."""
        for kind, prior in PRIORS.items() if isinstance(tree, dict) else ():
            found: dict[str, Any] = {}
            for path in prior.MOVED:
                section, _, name = path.partition(".")
                part = tree.get(section)
                if isinstance(part, dict) and not name:
                    found |= part
                    tree = {key: value for key, value in tree.items() if key != section}
                elif isinstance(part, dict) and name in part:
                    found[name] = part[name]
                    tree = {**tree, section: {key: value for key, value in part.items() if key != name}}
            if found:
                tree = {**tree, "prior": {"kind": kind, **tree.get("prior", {}), **found}}
        return tree

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        self.prior.check_train(self.train)
        return self

    @property
    def run_dir(self) -> Path:
        """Where everything the run writes goes."""
        return Path(self.output_dir) / self.name

    @property
    def result_dir(self) -> Path:
        """Where the result goes; it is there once the run is finished."""
        return self.run_dir / self.prior.RESULT

    @property
    def free_to_change(self) -> tuple[str, ...]:
        """Settings (or sections) that do not change which network is trained; latents are known by fingerprint."""
        return (*_FREE_TO_CHANGE, *self.prior.FREE_TO_CHANGE)


_FREE_TO_CHANGE = (
    *("name", "output_dir", "latents", "model", "train.accumulation", "train.workers", "train.tracker"),
    *("train.log_every_steps", "train.sample_every_steps", "train.checkpoint_every_steps", "train.keep_checkpoints"),
)


def parse_prior_run(argv: list[str]) -> tuple[PriorRunConfig, str, str]:
    """Settings, what to resume from, and what was changed in the defaults of the kind, one line or ''.

    Raises ConfigError with one line for anything missing, unknown or wrong.
    """
    options, kinds = split_options(argv), " or ".join(PRIORS)
    which = options.pop("help", None)
    kind = options.get("prior.kind", None if which is None else next(iter(PRIORS)))
    if not isinstance(kind, str) or kind not in PRIORS:
        problem = "--prior.kind is required" if kind is None else f"--prior.kind: got {kind}"
        raise ConfigError(f"{problem}, expected {kinds}; --prior.kind KIND --help all lists its settings")
    tree: dict[str, object] = {"name": kind, "prior": {"kind": kind}, "train": dict(PRIORS[kind].TRAIN)}
    if which is not None:
        print_help(TRAIN_PRIOR, list(listed(validate(PriorRunConfig, tree), {})), which=which, recipe={})
        raise SystemExit(0)
    resume = options.pop("resume", "auto")
    if not isinstance(resume, str):
        raise ConfigError("--resume needs one value: auto, never, or the path of a checkpoint")
    if resume == CHANGED_DATA:
        raise ConfigError("--resume changed-data is of train.py: a prior goes on with the latents that it began with")
    TRAIN_PRIOR.require(options)
    defaults = flatten(validate(PriorRunConfig, tree).model_dump())
    shorter = shortened(defaults, options)
    config = override(PriorRunConfig, tree, {**options, **shorter})
    return config, resume, describe_shortened(defaults, shorter, config.train.steps)
