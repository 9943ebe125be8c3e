"""What the programs that read settings are called, want to be given, and show of themselves first. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from latent_ae.config.section import ConfigError


@dataclass(frozen=True)
class Program:
    """A program with settings."""

    name: str
    """as a command of latent-ae"""
    script: str
    """its file in train/"""
    title: str
    examples: Mapping[str, str]
    """what each does, by the words after the program's name"""
    usual: tuple[str, ...]
    """the settings that most people give"""
    required: Mapping[str, tuple[str, ...]]
    """settings of which one has to be given, by what to give"""
    options: Mapping[str, str]
    """what is no setting, with its help"""
    kinds: Mapping[str, str]
    """what each setting chooses, that has settings of its own for each choice, where it is not given"""
    settings_of: str = ""
    """the program whose recipes and settings it takes, if it has none of its own"""

    def require(self, options: Mapping[str, object]) -> None:
        """Raise ConfigError for what has to be given and is not."""
        for what, names in self.required.items():
            if all(options.get(name) is None for name in names):
                raise ConfigError(f"{what} is required; --help shows examples")


_RESUME = "where a run with a checkpoint goes on"
TRAIN = Program(
    "train",
    "train.py",
    "Train an image autoencoder. A recipe has a value for every setting, and --FIELD VALUE changes it.",
    {
        "": "the recipe kl-digits: handwritten digits, three minutes",
        "--config kl-photos --data.path ~/pictures --name mine": "your own images",
        "--config sd-decoder-finetune --model.init_from OWNER/VAE --data.path ~/pictures": "an existing decoder",
    },
    (
        *("name", "data.path", "data.resolution", "model.init_from", "model.image_channels"),
        *("train.steps", "train.batch_size", "train.learning_rate", "train.mixed_precision", "train.keep_best"),
    ),
    {},
    {
        "--config NAME|FILE": "a recipe, or a YAML file of one's own",
        "--resume auto|never|changed-data|PATH": f"{_RESUME}; PATH is a checkpoint's folder",
        "--preflight on|only": "only: print which loss trains which module, and stop",
    },
    {"bottleneck.kind": "kl", "data.source": "digits"},
)
SWEEP = Program(
    "sweep",
    "sweep.py",
    "Train a recipe once for every combination of the values of some settings, and compare rate and distortion. The "
    "same command goes on after a kill.",
    {
        "--config kl-digits --vary loss.beta=0.1,1,10": "three runs in runs/kl-digits-sweep, a table and a figure",
        "--config kl-digits --vary loss.beta=1,10 loss.free_bits=0,0.1 --train.steps 200": "four short runs",
        "--config kl-photos --data.path ~/pictures --vary model.latent_channels=4,8,16": "any setting can be varied",
    },
    TRAIN.usual,
    {"--vary FIELD=A,B": ("vary",)},
    {
        "--config NAME|FILE": "a recipe, or a YAML file of one's own",
        "--vary FIELD=A,B,...": "the values of a setting; of several settings every combination is trained",
    },
    TRAIN.kinds,
    "train",
)
ENCODE_DATASET = Program(
    "encode-dataset",
    "encode_dataset.py",
    "Turn a data set into latents, in shards with an index. The same command goes on after a kill.",
    {
        "--model runs/kl-photos --data.path ~/pictures --resolution 256 --out dataset": "a folder of images",
        "--model runs/kl-digits --data.source digits --out dataset": "images that need no download",
        "--model OWNER/VAE --data.source hub --data.path OWNER/NAME --out dataset": "a data set of the hub",
    },
    (
        *("model", "out", "data.path", "data.source", "part", "resolution", "flips", "dtype", "logvar"),
        "shard_images",
    ),
    {
        "--model MODEL": ("model",),
        "--data.path FOLDER or --data.source NAME": ("data.path", "data.source"),
        "--out DIR": ("out",),
    },
    {},
    {"data.source": "digits"},
)
TRAIN_PRIOR = Program(
    "train-prior",
    "train_prior.py",
    "Train a prior, a model that draws latents, on a data set of latents.",
    {
        "--prior.kind diffusion --latents dataset": "a class-conditional diffusion transformer, as a stock pipeline",
        "--prior.kind hierarchy --latents dataset": "a hierarchical VAE of the latents, which also gives likelihoods",
        "--prior.kind diffusion --latents dataset --train.steps 10000 --name draws": "for longer, under another name",
    },
    (
        *("prior.kind", "latents", "model", "name", "train.steps", "train.batch_size", "train.learning_rate"),
        *("train.mixed_precision", "prior.width", "seed"),
    ),
    {"--prior.kind KIND": ("prior.kind",), "--latents DIR, made by encode-dataset,": ("latents",)},
    {"--resume auto|never|PATH": f"{_RESUME}; PATH is a checkpoint's folder"},
    {"prior.kind": "hierarchy"},
)
PROGRAMS: Mapping[str, Program] = {program.name: program for program in (TRAIN, SWEEP, ENCODE_DATASET, TRAIN_PRIOR)}
