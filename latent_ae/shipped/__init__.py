"""The models that come with the package, each a folder here: small ones for photographs, to try everything with.

Their names are taken wherever a model is expected, unless a folder or file of that name lies in the working directory.
"""

from pathlib import Path

DEFAULT = "photos-kl"
"""the model of commands that are given none"""


def shipped_models() -> dict[str, Path]:
    """The folder of each model by its name."""
    return {config.parent.name: config.parent for config in sorted(Path(__file__).parent.glob("*/config.json"))}
