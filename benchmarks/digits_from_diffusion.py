"""How many digits that a diffusion pipeline draws are the digits asked for, to classifiers that never saw it.

    python benchmarks/digits_from_diffusion.py runs/diffusion/pipeline

Loads the pipeline with stock diffusers, draws each of the ten classes, shrinks what comes to the 8x8 pixels of the real
digits and asks support vector machines that were trained on the real training digits alone. A draw counts if its own
class has the probability that is asked for; so does a real held-out digit, for comparison. Prints one JSON line.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

import latent_ae  # noqa: F401  # before diffusers: makes torchvision importable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from diffusers import DiTPipeline

from benchmarks.digits_from_the_prior import features, machines, views
from latent_ae.data import DigitsConfig
from latent_ae.data.sources.digits import Digits
from latent_ae.inference.pipeline_draws import draw
from latent_ae.models.loading import quiet_diffusers


def main(argv: list[str] | None = None) -> int:
    """Draw, ask, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline")
    parser.add_argument("--draws", type=int, default=256)
    parser.add_argument("--guidance-scale", type=float, default=1.5)
    parser.add_argument("--inference-steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sure", type=float, default=0.8, help="probability from which a digit counts as recognised")
    arguments = parser.parse_args(argv)
    parts = DigitsConfig().open()
    assert isinstance(parts.train, Digits)
    assert isinstance(parts.heldout, Digits)
    with quiet_diffusers():
        pipeline = DiTPipeline.from_pretrained(arguments.pipeline, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    wanted = np.arange(arguments.draws) % 10
    drawn = draw(
        pipeline,
        wanted.tolist(),
        guidance_scale=arguments.guidance_scale,
        inference_steps=arguments.inference_steps,
        seed=arguments.seed,
    )
    recognised = {}
    for name, machine in machines(parts.train):
        draws = machine.predict_proba(features(drawn))
        real = machine.predict_proba(features(views(parts.heldout)))
        of_draws = draws[np.arange(len(wanted)), wanted]
        of_real = real[np.arange(len(real)), parts.heldout.labels]
        recognised[name] = {
            "draws": round(float((of_draws >= arguments.sure).mean()), 4),
            "draws_most_likely": round(float((draws.argmax(1) == wanted).mean()), 4),
            "real": round(float((of_real >= arguments.sure).mean()), 4),
            "draws_of_each_class": [
                round(float((of_draws[wanted == n] >= arguments.sure).mean()), 3) for n in range(10)
            ],
        }
    line = {
        "benchmark": "digits_from_diffusion",
        "draws": arguments.draws,
        "guidance_scale": arguments.guidance_scale,
        "inference_steps": arguments.inference_steps,
        "sure": arguments.sure,
        "recognised": recognised,
    }
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
