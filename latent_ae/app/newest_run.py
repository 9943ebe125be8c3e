"""Which model is served where none was named: that of the newest finished run."""

from pathlib import Path

from latent_ae.training.finished import damage_of_result

HOW_TO_MAKE_ONE = (
    "no finished run under {folder}: give --model a model directory or a hub id, or make one in four minutes with\n"
    "  accelerate launch --config_file accelerate_config.yaml train/train.py"
)


def newest_model(runs: Path) -> Path | None:
    """The directory `model` of the run under `runs` that was finished last, None if none was.

    A run is finished when its `model/` is whole: a damaged one is passed over.
    """
    configs = [config for config in runs.glob("*/model/config.json") if config.is_file()]
    newest_first = sorted(configs, key=lambda config: config.stat().st_mtime, reverse=True)
    models = (config.parent for config in newest_first)
    return next((model for model in models if damage_of_result(model, "config.json") is None), None)
