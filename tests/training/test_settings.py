from pathlib import Path

import pytest
import yaml

from latent_ae.config import ConfigError, differences, load_yaml, to_yaml, validate
from latent_ae.data import SOURCES
from latent_ae.models.bottlenecks import BOTTLENECKS
from latent_ae.training.settings import RunConfig, parse_run

RECIPES = Path(__file__).parents[2] / "train" / "configs"


def parse(*argv: str) -> RunConfig:
    return parse_run(list(argv), RECIPES).config


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = parse("--config", "kl-digits", "--data.scale", "1", "2", "--data.crop", "random")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert validate(RunConfig, load_yaml(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_named_after_its_file(recipe: Path) -> None:
    needs_path = yaml.safe_load(recipe.read_text())["data"]["source"] == "folder"
    assert parse("--config", recipe.stem, *(["--data.path", "images"] if needs_path else [])).name == recipe.stem


def test_the_command_line_goes_before_the_recipe() -> None:
    config = parse(
        "--loss.beta", "1e-3", "--train.batch_size=64", "--train.compile", "--seed", "7", "--train.ema_decay", "null"
    )
    assert (config.loss.beta, config.train.batch_size, config.train.compile, config.seed) == (1e-3, 64, True, 7)
    assert config.train.ema_decay is None


def test_lists_are_words_after_an_option() -> None:
    assert parse("--model.block_out_channels", "8", "16").model.block_out_channels == (8, 16)
    assert parse("--model.block_out_channels", "8").model.block_out_channels == (8,)


def test_init_from_takes_the_place_of_the_recipes_architecture() -> None:
    config = parse("--model.init_from", "some/vae")
    assert (config.model.preset, config.model.init_from) == (None, "some/vae")
    shipped = parse("--config", "photos-kl", "--data.path", "photographs", "--model.init_from", "photos-kl").model
    assert (shipped.preset, shipped.start, shipped.dtype) == (None, "random", "float16")


def test_scientific_notation_in_yaml_is_a_number(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("loss: {beta: 1e-6}\n")  # YAML 1.1 reads this as a string
    assert parse("--config", str(file)).loss.beta == 1e-6
    assert parse("--config", str(file)).name == "mine"


HUB = ["--data.source", "hub", "--data.path", "x"]
UNSEEN = ["--evaluation.perceptual", "none"]
GUMBEL = ["--bottleneck.kind", "gumbel", "--bottleneck.codebook_size", "8", "--model.start_logvar", "0"]
NO_KL = [
    *("--loss.beta", "null", "--loss.beta_schedule", "constant", "--loss.beta_warmup_steps", "0"),
    *("--model.start_logvar", "0"),
]
FSQ = ["--bottleneck.kind", "fsq", "--bottleneck.levels", "4", "4", "4", *NO_KL]
VQ = ["--bottleneck.kind", "vq", "--bottleneck.codebook_size", "8", *NO_KL]


@pytest.mark.parametrize("words", [["16", "32"], ["[16, 32]"]])
def test_a_resolution_is_a_side_or_a_height_and_a_width(words: list[str]) -> None:
    assert parse("--data.resolution", *words).data.crop_size == (16, 32)
    assert parse("--data.resolution", "16").data.crop_size == (16, 16)
    assert parse("--data.resolution", "16").data.resolution == 16  # as configs of before have it


def test_one_temperature_for_the_whole_run_is_no_mistake() -> None:
    assert parse(*GUMBEL, "--bottleneck.temperature", "0.5", "0.5").bottleneck.temperature == (0.5, 0.5)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--loss.bta", "1"], "unknown setting --loss.bta; did you mean --loss.beta?"),
        (["--loss.beta", "-1"], "loss.beta: got '-1'; input should be greater than or equal to 0"),
        (["--loss.beta", "x"], "loss.beta: got 'x'; input should be a valid number"),
        (["--loss.beta", "nan"], "loss.beta: got 'nan'; input should be a finite number"),
        (["--train.steps", "1.5"], "train.steps: got '1.5'; input should be a valid integer"),
        (["--train.steps"], "train.steps: got 'true'"),
        (["--model.image_channels", "65"], "model.image_channels: got '65'; input should be less than or equal to 64"),
        (["--data.resolution", "7"], "data.resolution takes the side of a square, or height and width, of at least 8"),
        (["--data.resolution", "16", "x"], "of at least 8 pixels, got 16 x"),
        (["--data.resolution", "16", "16", "16"], "of at least 8 pixels, got 16 16 16"),
        (
            ["--evaluation.size", "16", "7"],
            "evaluation.size takes the side of a square, or height and width, of at lea",
        ),
        (
            ["--data.fit", "pad", "--data.crop", "random"],
            "data.fit pad shows all of an image, and data.crop cuts it: give data.crop center",
        ),
        (
            ["--data.fit", "resize", "--data.buckets", "true"],
            "data.buckets cuts it: give data.buckets false",
        ),
        (["--data.fit", "stretch"], "data.fit: got 'stretch'; input should be 'crop', 'pad' or 'resize'"),
        (
            ["--data.value_range", "0", "1", "--data.color_gain", "0.1"],
            "data.color_gain multiplies levels of pictures, and the images are read as numbers",
        ),
        (["--data.source", "folder"], "data.source folder needs data.path"),
        (["--loss.perceptual", "vgg", "--loss.perceptual_weight", "0"], "disagree: give both or neither"),
        (["--config", "nothing"], "there is neither a recipe nor a file 'nothing'; the recipes are "),
        (["stray"], "unexpected argument 'stray'"),
        (["--preflight", "off"], "--preflight: got 'off', expected on or only"),
        (["--train.keep_checkpoints", "1"], "train.keep_checkpoints: got '1'"),
        (["--model.init_from", "x", "--model.preset", "sd"], "model.preset would have no effect"),
        (["--loss.entropy_temperature", "1"], "loss.entropy_temperature has no effect with bottleneck.kind kl"),
        ([*VQ, "--loss.entropy_temperature", "1"], "loss.entropy_temperature has an effect only with loss.entropy_w"),
        (["--data.heldout_share", "0.5"], "data.heldout_share has no effect with data.source digits: leave it out"),
        (
            [*HUB, "--data.heldout_split", "x", "--data.heldout_share", "0.5"],
            "data.heldout_share has no effect with data.heldout_split",
        ),
        (["--evaluation.fid_weights_file", "x"], "evaluation.fid_weights_file has an effect only with evaluation.fid"),
        ([*UNSEEN, "--evaluation.perceptual_weights_file", "x"], "has no effect with evaluation.perceptual none"),
        (["--evaluation.perceptual_weights_file", "x"], "has no effect with evaluation.perceptual random_features"),
        ([*GUMBEL, "--bottleneck.temperature", "1", "0.5"], "never comes to 0.5 with bottleneck.temperature_steps 0"),
        (
            [*FSQ, "--loss.capacity", "0"],
            "loss.capacity has no effect with bottleneck.kind fsq: leave it out, or give bottleneck.kind kl or gumbel",
        ),
    ],
)
def test_each_mistake_is_one_clear_line(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(*argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("los: {beta: 1}", "unknown setting los"),
        ("train: {stepz: 1}", "unknown setting train.stepz"),
        ("[1, 2]", "must be a mapping of settings, got list"),
        ("a: [", "cannot read the config"),
        ("train: {steps: many}", "train.steps: got 'many'"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(ConfigError) as caught:
        parse("--config", str(tmp_path / "c.yaml"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_differences_name_the_setting_and_both_values() -> None:
    old = RunConfig()
    new = validate(RunConfig, {"loss": {"beta": 0.5}, "train": {"betas": [0.5, 0.9]}})
    assert differences(old, new) == ["loss.beta: None -> 0.5", "train.betas: [0.9, 0.999] -> [0.5, 0.9]"]
    assert differences(old, old) == []


def test_help_lists_every_setting_with_the_recipes_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help", "all")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "--loss.beta" in text
    recipe = yaml.safe_load((RECIPES / "kl-digits.yaml").read_text())
    assert f"(default: {recipe['train']['batch_size']})" in text


@pytest.mark.parametrize(
    ("choice", "line"),
    [("--bottleneck.kind fsq", "--bottleneck.levels"), ("--data.source folder", "--data.path")],
)
def test_help_is_given_without_what_a_choice_requires(
    choice: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("loss: {beta: null}")
    with pytest.raises(SystemExit) as caught:
        parse("--config", str(recipe), *choice.split(), "--help", "all")
    assert caught.value.code == 0
    assert line in capsys.readouterr().out


def test_a_wrong_choice_is_the_only_error(tmp_path: Path) -> None:
    """What depends on it cannot be judged."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("loss: {beta: 2.0}")
    with pytest.raises(ConfigError, match=r"^bottleneck.kind: got 'bogus', expected one of [\w, ]+$"):
        parse("--config", str(recipe), "--bottleneck.kind", "bogus")


OLD_DATA = {
    "digits": {"path": None, "heldout_share": 0.05, "image_column": None, "streams": 8, "background": [255, 255, 255]},
    "folder": {"path": "x", "heldout_share": 0.2, "image_column": None, "train_split": None, "shuffle_block": 256},
}


@pytest.mark.parametrize("source", OLD_DATA)
def test_a_config_saved_with_the_settings_of_all_sources_is_read(source: str) -> None:
    config = validate(RunConfig, {"data": {"source": source, **OLD_DATA[source]}})
    own = {} if source == "digits" else {"path": "x", "heldout_share": 0.2}
    assert config.data == SOURCES[source](**own)
    assert set(config.data.model_dump()) == set(SOURCES[source].model_fields)


FLAT = {
    "kl": {"codebook_size": None, "levels": None, "decay": 0.99, "temperature": [1.0, 0.0625], "l2_normalized": False},
    "vq": {"codebook_size": 8, "levels": None, "decay": 0.99, "temperature": [1.0, 0.0625], "kmeans_start": True},
}


@pytest.mark.parametrize("kind", FLAT)
def test_a_config_saved_with_the_settings_of_all_kinds_is_read(kind: str) -> None:
    loss = {"beta": 1e-6 if kind == "kl" else None, "free_bits": 0.0, "commitment_weight": None, "entropy_weight": 0.0}
    config = validate(RunConfig, {"bottleneck": {"kind": kind, **FLAT[kind]}, "loss": loss})
    own = {} if kind == "kl" else {"codebook_size": 8, "kmeans_start": True}
    assert config.bottleneck == BOTTLENECKS[kind](**own)
    assert set(config.bottleneck.model_dump()) == set(BOTTLENECKS[kind].model_fields)
    assert set(config.loss.model_dump()) == set(BOTTLENECKS[kind].loss.model_fields)


@pytest.mark.parametrize(
    ("recipe", "argv", "expected"),
    [
        ("kl-digits", ["--data.path", "pictures"], ("folder", "pictures")),
        ("kl-photos", ["--data.path", "pictures/one.png"], ("folder", "pictures/one.png")),
        ("kl-f16", ["--data.path", "pictures"], ("folder", "pictures")),
        ("kl-digits", ["--data.path", "all.parquet"], ("hub", "all.parquet")),
        ("kl-f16", ["--data.path", "shards/{0..9}.tar"], ("hub", "shards/{0..9}.tar")),
        ("kl-digits", ["--data.path", "shards.tar", "--data.source", "stream"], ("stream", "shards.tar")),
        ("kl-digits", [], ("digits", None)),
    ],
)
def test_a_path_alone_says_the_source(recipe: str, argv: list[str], expected: tuple[str, str | None]) -> None:
    data = parse("--config", recipe, *argv).data
    assert (data.source, getattr(data, "path", None)) == expected
    assert data.resolution == load_yaml(RECIPES / f"{recipe}.yaml")["data"]["resolution"]


def test_a_source_of_ones_own_recipe_stays_with_another_path(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {source: stream}\n")
    data = parse("--config", str(tmp_path / "mine.yaml"), "--data.path", "shards.tar").data
    assert (data.source, data.path) == ("stream", "shards.tar")


def test_few_steps_shorten_what_the_recipe_says_in_proportion_and_nothing_else() -> None:
    """kl-digits-gan: 780 updates, a warm-up of 30, a discriminator that warms up for 100 and is seen from 400 on."""
    found = parse_run(["--config", "kl-digits-gan", "--train.steps", "26"], RECIPES)
    train, adversarial = found.config.train, found.config.adversarial
    assert (train.steps, train.warmup_steps) == (26, 1)
    assert (adversarial.start_step, adversarial.warmup_steps) == (13, 3)
    assert found.config.loss.beta_warmup_steps == 400
    assert found.note == (
        "shortened, as --train.steps 26 are fewer than the recipe's: train.warmup_steps 30 -> 1, "
        "adversarial.start_step 400 -> 13, adversarial.warmup_steps 100 -> 3"
    )
    fits = parse_run(["--config", "kl-digits-gan", "--train.steps", "401"], RECIPES)
    assert fits.note == ""
    assert fits.config == parse("--config", "kl-digits-gan").model_copy(
        update={"train": fits.config.train.model_copy(update={"steps": 401})}
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--train.warmup_steps", "30"], "train.warmup_steps 30 is more than train.steps 26: lower it too"),
        (["--adversarial.start_step", "400"], "adversarial.start_step 400 is not before the last of train.steps 26"),
        (["--adversarial.warmup_steps", "100"], "adversarial.warmup_steps 100 come before adversarial.start_step 13"),
    ],
)
def test_what_was_asked_for_is_not_shortened(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse("--config", "kl-digits-gan", "--train.steps", "26", *argv)
