"""Which model is served where none was named: that of the newest finished run."""

from pathlib import Path

HOW_TO_MAKE_ONE = (
    "no finished run under {folder}: give --model a model directory or a hub id, or make one in four minutes with\n"
    "  accelerate launch --config_file accelerate_config.yaml train/train.py"
)


def newest_model(runs: Path) -> Path | None:
    """The directory `model` of the run under `runs` that was finished last, None if none was.

    A run is finished when its `model/config.json` is there: that file is moved into place with the whole directory.
    """
    configs = [config for config in runs.glob("*/model/config.json") if config.is_file()]
    return max(configs, key=lambda config: config.stat().st_mtime).parent if configs else None
