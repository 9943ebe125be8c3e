"""What a newcomer mistypes is answered in one line that says what to do, before torch is imported.

All lines are run in one process, which must not have torch at the end of any: importing it takes longer than a second.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

SLIPS = {
    # train
    "train kl-photos": "unexpected argument 'kl-photos': did you mean --config kl-photos?",
    "train pictures": "unexpected argument 'pictures': did you mean --data.path pictures?",
    "train mine.yaml": "unexpected argument 'mine.yaml': did you mean --config mine.yaml?",
    "train --config kl-photo": "neither a recipe nor a file 'kl-photo'; did you mean kl-photos? The recipes are beta",
    "train --config runs/mine": "runs/mine is the folder of a run: give its settings, runs/mine/config.yaml",
    "train --config": "--config needs one value",
    "train --steps 100": "unknown setting --steps; did you mean --train.steps?",
    "train --path pictures": "unknown setting --path; did you mean --data.path?",
    "train --train.step 100": "unknown setting --train.step; did you mean --train.steps?",
    "train --train.steps abc": "train.steps: got 'abc', expected a whole number",
    "train --train.steps": "train.steps: got 'true', expected a whole number",
    "train --train.learning_rate fast": "train.learning_rate: got 'fast', expected a number",
    "train --data.crop randm": "data.crop: got 'randm', expected random, center; did you mean random?",
    "train --model.preset digit": "; did you mean digits?",
    "train --data.path picture": "--data.path picture does not exist; did you mean pictures?",
    "train --data.path owner/name": "; a data set of the hub needs --data.source hub",
    "train --data.path pictures --data.source foldr": "data.source: got 'foldr', expected one of digits, photos",
    "train --bottleneck.kind vqq": "bottleneck.kind: got 'vqq', expected one of kl, identity, vq, ema_vq, fsq, gumbel",
    "train --model.init_from runs/min": "runs/min: there is no such folder or file; did you mean runs/mine?",
    "train --resume runs/mine/checkpoint": "--resume runs/mine/checkpoint does not exist",
    "train -o out": "unknown option -o: settings are given as --FIELD VALUE",
    # sweep
    "sweep --config kl-digits": "--vary FIELD=A,B is required",
    "sweep --vary loss.beta": "--vary loss.beta: expected FIELD=A,B,..., such as loss.beta=1e-6,1e-4",
    "sweep --vary loss.bta=1,2": "unknown setting --loss.bta; did you mean --loss.beta?",
    "sweep --vary train.steps=1,many": "train.steps: got 'many', expected a whole number",
    "sweep --vary data.crop=random,centre": "data.crop: got 'centre', expected random, center; did you mean center?",
    "sweep --vary loss.beta=1,1": "each value may be given once",
    "sweep --vary loss.beta=1 --vary loss.beta=2": "--vary loss.beta is given twice",
    "sweep --vary loss.beta=1,2 --loss.beta 3": "--loss.beta and --vary loss.beta are both given",
    "sweep --vary name=a,b": "a sweep names the folder of each run",
    "sweep --vary loss.beta=1,2 --resume never": "unknown setting --resume",
    # encode-dataset, train-prior
    "encode-dataset": "--model MODEL is required; --help shows examples",
    "encode-dataset --model runs/mine": "--data.path FOLDER or --data.source NAME is required",
    "encode-dataset --model runs/mine --data.path pictures": "--out DIR is required",
    "encode-dataset --model runs/mine --data.path pictures -o out": "unknown option -o",
    "encode-dataset --model runs/min --data.path pictures --out out": "did you mean runs/mine?",
    "train-prior": "--prior.kind KIND is required",
    "train-prior --prior.kind diffusoin --latents latents": "prior.kind: got 'diffusoin', expected one of hierarchy",
    "train-prior --prior.kind diffusion --latents latnts": "--latents latnts does not exist; did you mean latents?",
    # commands on files
    "recontruct photo.jpg": "unknown command 'recontruct'; did you mean reconstruct?",
    "encode": "the following arguments are required: IMAGE, -o/--out",
    "encode photo.jpg --model runs/mine": "the following arguments are required: -o/--out",
    "encode phot.jpg -o out --model runs/mine": "phot.jpg does not exist; did you mean photo.jpg?",
    "encode photo.jpg -o out --model mine": "there is no such folder or file; did you mean mine.yaml or runs/mine?",
    "encode photo.jpg -o out --model runs": "runs holds runs: give one of them, such as runs/mine",
    "encode photo.jpg -o out --model pictures": "cannot load an autoencoder from pictures: there is no config.json",
    "encode runs/mine -o out --model photo.jpg": "photo.jpg is a picture, expected a model: give --model",
    "decode latents/b.safetensors -o out --model runs/mine": "does not exist; did you mean latents/a.safetensors?",
    "interpolate photo.jpg -o a.png --model runs/mine": "the following arguments are required: B",
    "interpolate photo.jpg phot.jpg -o a.png --model runs/mine": "phot.jpg does not exist; did you mean photo.jpg?",
    "sample --model runs/mine": "the following arguments are required: -o/--out",
    "sample --model runs/mine -o draws": "--out draws: the name must end in .png",
    "sample --model runs/mine -o draws/a.png": "--out draws/a.png: the folder draws does not exist",
    "sample --model text -o a.png": "text is a StableDiffusionPipeline, and only a DiTPipeline draws without a prompt",
    # models
    "evaluate": "the following arguments are required: MODEL",
    "evaluate pictures": "cannot load an autoencoder from pictures",
    "evaluate runs/mine --data.path pictres": "--data.path pictres does not exist; did you mean pictures?",
    "evaluate runs/mine --data.source nowhere": "data.source: got 'nowhere', expected one of digits",
    "evaluate runs/mine --evaluation.max_image 3": "did you mean --evaluation.max_images?",
    "evaluate runs/mine --json nowhere/report.json": "the folder nowhere does not exist",
    "export --model runs/mine -o out": "argument TARGET: invalid choice: 'runs/mine' (choose from 'diffusers'",
    "export diffusers --model runs/mine": "the following arguments are required: -o/--out",
    "compat runs/min": "did you mean runs/mine?",
    "push runs/min owner/name": "runs/min does not exist; did you mean runs/mine?",
    "import vae.safetensors -o out": "vae.safetensors does not exist",
    "verify latnts": "latnts does not exist; did you mean latents?",
    "fit-prior latnts -o out": "latnts does not exist; did you mean latents?",
    "fit-prior latents -o out --components 0": "argument --components: got '0', expected",
    "convert-dataset latents --to lightning -o out": "argument --to: invalid choice: 'lightning'",
    "serve --model runs/min": "did you mean runs/mine?",
    "serve --modle runs/mine": "unrecognized arguments: --modle runs/mine; see latent-ae serve --help",
}
RUN = """
import contextlib, io, json, shlex, sys
from latent_ae.cli import main
found = {}
for line in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            status = main(shlex.split(line))
        except SystemExit as end:
            status = end.code
    found[line] = (status, errors.getvalue(), "torch" in sys.modules)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[int, str, bool]]:
    """Status, what was said, and whether torch was imported, of every line, in a folder with a bit of everything."""
    here = tmp_path_factory.mktemp("here")
    for folder in ("pictures", "latents", "runs/mine/model", "text/vae"):
        (here / folder).mkdir(parents=True)
        (here / folder / "config.json").write_text("{}")
    for folder in ("pictures", "latents"):
        (here / folder / "config.json").unlink()
    for file in ("photo.jpg", "pictures/a.png", "latents/a.safetensors", "mine.yaml"):
        (here / file).touch()
    (here / "runs/mine/config.yaml").write_text("name: mine\n")
    (here / "text/model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    lines = json.dumps(list(SLIPS))
    run = subprocess.run([sys.executable, "-c", RUN], input=lines, capture_output=True, text=True, cwd=here, check=True)
    found: Mapping[str, tuple[int, str, bool]] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize("line", SLIPS)
def test_a_slip_is_answered_in_one_line_before_torch_is_imported(
    line: str, answers: Mapping[str, tuple[int, str, bool]]
) -> None:
    status, said, torch = answers[line]
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert SLIPS[line] in said
    assert (status, torch) == (2, False)


def test_a_script_of_train_answers_as_its_command(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "train" / "train.py"
    words = shlex.split("--steps 100")
    run = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, cwd=tmp_path)
    assert (run.returncode, run.stderr) == (2, "error: unknown setting --steps; did you mean --train.steps?\n")
    run = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0
    assert "python train/train.py --config kl-photos --data.path ~/pictures --name mine" in run.stdout
