"""Settings that follow from an option: the source of a path, and the parts of a recipe that a short run cuts short."""

from collections.abc import Mapping
from pathlib import PurePath

TABLES = (".parquet", ".arrow", ".tar")
"""files of many images, which the source `hub` reads"""
_WARMUPS = ("train.warmup_steps", "prior.kl_warmup_steps")
"""settings that may not be longer than the run"""
_FIRST_SEEN, _SEEN_WARMUP = "adversarial.start_step", "adversarial.warmup_steps"
"""the update in which the discriminator is first seen, and its own warm-up before"""


def source_of(path: object) -> str:
    """The source of the images in a folder, a file or a table."""
    return "hub" if PurePath(str(path)).suffix.lower() in TABLES else "folder"


def with_source(tree: dict[str, object], options: Mapping[str, object]) -> dict[str, object]:
    """A recipe's tree of settings with the source of --data.path, where that is given alone, in place of its own.

    A recipe that reads the hub or a stream, or that has a path itself, gets another path alone.
    """
    data = tree.get("data", {})
    if not isinstance(data, dict) or options.get("data.path") is None or options.get("data.source") is not None:
        return tree
    if "path" in data or data.get("source") in ("hub", "stream"):
        return tree
    return {**tree, "data": {**data, "source": source_of(options["data.path"])}}


def shortened(recipe: Mapping[str, object], options: Mapping[str, object]) -> dict[str, int]:
    """The recipe's warm-ups that do not fit into a --train.steps below its own, shortened in proportion, by their path.

    Args:
        recipe: its settings by their dotted path.
        options: those of the command line, which stay as they are given.
    """
    given, whole = str(options.get("train.steps")), recipe.get("train.steps")
    if not given.isdecimal() or not isinstance(whole, int) or int(given) >= whole:
        return {}
    steps, lengths = int(given), {path: recipe.get(path) for path in (*_WARMUPS, _FIRST_SEEN, _SEEN_WARMUP)}
    free = {path: length for path, length in lengths.items() if isinstance(length, int) and path not in options}
    long = [path for path in _WARMUPS if free.get(path, 0) > steps]
    if free.get(_FIRST_SEEN, 0) >= steps:  # the autoencoder would never see its discriminator
        long += [path for path in (_FIRST_SEEN, _SEEN_WARMUP) if path in free]
    return {path: free[path] * steps // whole for path in long}


def describe_shortened(recipe: Mapping[str, object], shorter: Mapping[str, int], steps: object) -> str:
    """What `shortened` changed, in one line; '' for nothing."""
    changes = ", ".join(f"{path} {recipe[path]} -> {length}" for path, length in shorter.items())
    return f"shortened, as --train.steps {steps} are fewer than the recipe's: {changes}" if changes else ""
