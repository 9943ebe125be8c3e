"""How many held-out digits of one class an attribute turns into another, to classifiers that never saw the model.

    python benchmarks/digits_edited.py runs/kl-digits/model [--from 3 --to 8]

The attribute is made of training digits, as `latent-ae attribute` makes it, and added to the latents of held-out ones
at several strengths. Beside it: how much of the image is kept (PSNR to the reconstruction), and an attribute of the
same images with their sides shuffled, brought to the same length. Prints one JSON line.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.digits_from_the_prior import features, machines
from latent_ae.data import DigitsConfig
from latent_ae.data.sources.digits import Digits
from latent_ae.inference import Codec
from latent_ae.inference.attribute_sides import Side, sides_of_classes
from latent_ae.inference.attributes import edited, find_attribute
from latent_ae.inference.encoded_images import Load
from latent_ae.io.pixel_format import Array

STRENGTHS = (0.5, 1.0, 1.5, 2.0)


def shuffled(sides: list[Side], seed: int) -> list[Side]:
    """The same images, assigned to the two sides by chance."""
    generator = np.random.default_rng(seed)

    def deal(first: list[Load], second: list[Load]) -> tuple[list[Load], list[Load]]:
        every = [*first, *second]
        order = generator.permutation(len(every))
        return [every[i] for i in order[: len(first)]], [every[i] for i in order[len(first) :]]

    fitted = deal(*(list(side.fitted) for side in sides))
    heldout = deal(*(list(side.heldout) for side in sides))
    return [Side(side.name, *images) for side, *images in zip(sides, fitted, heldout, strict=True)]


def psnr(images: list[Array], others: list[Array]) -> float:
    """Mean over pairs of images, in dB."""
    errors = [np.square(a.astype(float) - b).mean() for a, b in zip(images, others, strict=True)]
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-9))))


def main() -> None:
    """Edit, ask, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--from", dest="from_", default="3", choices=Digits.label_names)
    parser.add_argument("--to", default="8", choices=Digits.label_names)
    parser.add_argument("--seed", type=int, default=0, help="of the shuffled sides")
    arguments = parser.parse_args()
    codec, parts = Codec.load(arguments.model), DigitsConfig().open()
    assert isinstance(parts.train, Digits)
    names = [arguments.from_, arguments.to]
    sides = sides_of_classes(codec.pixel_format, parts, names, most=1000)
    latents = codec.encode([load() for load in sides[0].heldout])
    asked = dict(machines(parts.train))
    line: dict[str, object] = {"from": arguments.from_, "to": arguments.to, "heldout_images": len(latents)}
    found = find_attribute(codec, *sides)
    chance = find_attribute(codec, *shuffled(sides, arguments.seed))
    chance = replace(chance, tensor=chance.tensor * (found.tensor.norm() / chance.tensor.norm()))
    kept = codec.decode(latents)
    for what, attribute in (("attribute", found), ("shuffled", chance)):
        images = [edited(codec, each, attribute, STRENGTHS) for each in latents]
        by_strength = {}
        for place, strength in enumerate(STRENGTHS):
            vectors = features(np.stack([each[place] for each in images]))
            by_strength[strength] = {
                "turned": {
                    name: round(float((machine.predict_proba(vectors).argmax(1) == int(arguments.to)).mean()), 3)
                    for name, machine in asked.items()
                },
                "psnr_to_reconstruction": round(psnr([each[place] for each in images], kept), 2),
            }
        line[what] = {"says": str(attribute.separation), "strengths": by_strength}
    print(json.dumps(line))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
