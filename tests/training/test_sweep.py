"""Which runs a sweep has, and what is refused before any of them starts."""

from pathlib import Path

import pytest

from latent_ae.config import ConfigError
from latent_ae.config.varied import split_varied
from latent_ae.training.settings import parse_run
from latent_ae.training.sweep import parse_sweep
from tests.program.forked import ROOT

RECIPES = ROOT / "train" / "configs"


def test_every_combination_is_a_run_with_the_settings_that_its_words_give() -> None:
    words = ["--vary", "loss.beta=1e-6,2", "train.betas=[0.5,0.9],[0.9,0.99]", "--seed", "3", "--output_dir", "all"]
    sweep = parse_sweep(words, RECIPES)
    assert sweep.folder == Path("all/kl-digits-sweep")
    assert [run.values for run in sweep.runs] == [
        {"loss.beta": beta, "train.betas": betas} for beta in (1e-6, 2.0) for betas in ([0.5, 0.9], [0.9, 0.99])
    ]
    for run in sweep.runs:
        config = parse_run(list(run.argv), RECIPES).config
        assert config.run_dir == run.run_dir
        assert config.run_dir.parent == sweep.folder
        assert (config.seed, config.loss.model_dump()["beta"]) == (3, run.values["loss.beta"])
        assert list(config.train.betas) == run.values["train.betas"]
    assert len({run.run_dir for run in sweep.runs}) == 4


@pytest.mark.parametrize("words", [["--vary=a=1,2", "--vary", "b=x"], ["--vary", "a=1,2", "b=x"]])
def test_vary_takes_several_fields_at_once_or_one_by_one(words: list[str]) -> None:
    assert split_varied([*words, "--c", "d"]) == ({"a": ["1", "2"], "b": ["x"]}, ["--c", "d"])


def test_values_are_folders_of_their_own_whatever_is_in_them() -> None:
    runs = parse_sweep(["--vary", "model.init_from=a/b,c/d"], RECIPES).runs
    assert [run.name for run in runs] == ["model.init_from=a_b", "model.init_from=c_d"]
    with pytest.raises(ConfigError, match="would be written to"):
        parse_sweep(["--vary", "model.init_from=a/b,a_b"], RECIPES)


def test_a_combination_that_contradicts_itself_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^loss\.beta_schedule=constant: loss\.beta_schedule linear and "):
        parse_sweep(["--vary", "loss.beta_schedule=linear,constant"], RECIPES)
