"""How many draws from a digits model's prior are digits, to classifiers that never saw the model.

    python benchmarks/digits_from_the_prior.py runs/kl-digits/model [--prior runs/hierarchy/prior]

Decodes raw latents from N(0, 1), or what a learned prior draws, shrinks them to the 8x8 pixels of real digits and asks
support vector machines that were trained on the real training digits alone. How sure a machine is depends on how its
scores are turned into probabilities, so several ways are asked; beside each stand the share of real held-out digits, of
50/50 blends of two real digits and of uniform noise that it recognises. Prints one JSON line.

A prior of a VQModel's codes draws each class in turn. "as_asked" are the draws recognised as that class, "completed"
the recognised held-out digits whose upper half, with the lower drawn anew, is taken for the same class, and
"completed_of_class" the same with the class told.
"""

import argparse
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import SVC
from torch import Tensor

from latent_ae.data import DigitsConfig
from latent_ae.data.sources.digits import Digits
from latent_ae.inference import decode, encode, reconstruct
from latent_ae.inference.codebook import Codebook
from latent_ae.io.image import from_tensor, to_tensor, to_uint8
from latent_ae.models import Autoencoder, factor_of, load_autoencoder
from latent_ae.models.bottlenecks.quantizer import stock_codebook
from latent_ae.models.learned_prior import DrawOptions, LearnedPrior, check_prior
from latent_ae.models.parts import encoder_identity
from latent_ae.models.prior_loading import load_prior
from latent_ae.models.token_prior import TokenPrior
from latent_ae.randomness import torch_generator

Features = NDArray[np.float64]
CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "pairwise Platt scaling, SVC(probability=True)": lambda: SVC(gamma=0.001, probability=True),
    "sigmoid, CalibratedClassifierCV(ensemble=False)": lambda: CalibratedClassifierCV(SVC(gamma=0.001), ensemble=False),
    "isotonic, CalibratedClassifierCV": lambda: CalibratedClassifierCV(SVC(gamma=0.001), method="isotonic"),
}


def features(pixels: NDArray[np.uint8]) -> Features:
    """[N,32,32,1] uint8 => [N,64] levels 0..16, as scikit-learn has its digits."""
    count, side = pixels.shape[0], pixels.shape[1] // 8
    means: Features = pixels.reshape(count, 8, side, 8, side).mean((2, 4))
    return means.reshape(count, 64) / 255 * 16


def views(source: Digits) -> NDArray[np.uint8]:
    """All images of a part, [N,32,32,1]."""
    return np.stack([to_uint8(source.load(index), 1) for index in range(len(source))])


def machines(train: Digits) -> Iterator[tuple[str, Any]]:
    """Support vector machines with their names, fitted to real training digits alone."""
    for name, make in CLASSIFIERS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # scikit-learn is about to retire SVC's own probabilities
            yield name, make().fit(features(views(train)), train.labels)


def _share(found: NDArray[np.bool_]) -> float:
    return round(float(found.mean()), 3)


def _distances(vectors: Features, others: Features) -> dict[str, float]:
    """Smallest and median distance of vectors [N,64] to the nearest of others, which is 0 for a copy."""
    nearest = np.sqrt(((vectors[:, None] - others) ** 2).sum(-1)).min(1)
    return {"least": round(float(nearest.min()), 2), "median": round(float(np.median(nearest)), 2)}


def drawn(model: Autoencoder, prior: LearnedPrior | None, given: argparse.Namespace) -> tuple[Tensor, Features | None]:
    """Latents or codes' vectors [N,c,h,w], and of a prior that knows classes the class [N] of each."""
    if prior is None:
        side = 32 // factor_of(model)
        shape = (int(model.config["latent_channels"]), side, side)
        return torch.randn(given.draws, *shape, generator=torch_generator(given.seed, "prior draws")), None
    check_prior(prior, encoder_identity(model), given.prior)
    found = prior.drawn(given.draws, seed=given.seed, options=DrawOptions(top_p=given.top_p))
    if not isinstance(prior, TokenPrior):
        return found, None
    return Codebook(stock_codebook(model)).vectors(found), np.array(prior.in_turn(given.draws))


def completions(
    model: Autoencoder, prior: TokenPrior, pixels: Tensor, labels: Sequence[int | None], given: argparse.Namespace
) -> Tensor:
    """Vectors [N,c,h,w] of the codes of images [N,1,32,32], whose lower half is drawn, of a class or none."""
    codebook, options = Codebook(stock_codebook(model)), DrawOptions(top_p=given.top_p)
    kept = codebook.nearest(encode(model, pixels))[:, : prior.side // 2].flatten(1)
    drawn = [
        prior.draw([label], seed=given.seed + place, options=options, kept=codes)
        for place, (label, codes) in enumerate(zip(labels, kept, strict=True))
    ]
    return codebook.vectors(torch.cat(drawn))


def kept_class(machine: Any, completed: Features, real: Features, given: argparse.Namespace) -> float:
    """Share of the recognised digits whose completion the machine takes for the same class."""
    recognised = real.max(1) >= given.sure
    return _share(machine.predict_proba(completed).argmax(1)[recognised] == real.argmax(1)[recognised])


def main() -> None:
    """Draw, ask, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prior", help="a folder that train/train_prior.py wrote, in place of N(0, 1)")
    parser.add_argument("--draws", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--top-p", type=float, help="of a prior of codes: latent-ae sample --top-p")
    parser.add_argument("--sure", type=float, default=0.8, help="probability from which a digit counts as recognised")
    arguments = parser.parse_args()
    model = load_autoencoder(arguments.model).eval()
    parts = DigitsConfig().open()
    assert isinstance(parts.train, Digits)
    assert isinstance(parts.heldout, Digits)
    heldout, random = views(parts.heldout), np.random.default_rng(arguments.seed)
    pixels = torch.stack([to_tensor(image) for image in heldout])
    error = (reconstruct(model, pixels) - pixels).square().mean((1, 2, 3))
    prior = None if arguments.prior is None else load_prior(arguments.prior)
    latents, wanted = drawn(model, prior, arguments)
    completed: dict[str, Features] = {}
    if isinstance(prior, TokenPrior):
        labels = parts.heldout.labels.tolist()
        for what, told in {"completed": [None] * len(labels), "completed_of_class": labels}.items():
            completed[what] = features(from_tensor(decode(model, completions(model, prior, pixels, told, arguments))))
    asked = {
        "draws": features(from_tensor(decode(model, latents))),
        "real": features(heldout),
        "blends": (features(heldout) + features(heldout[random.permutation(len(heldout))])) / 2,
        "noise": random.uniform(0, 16, (1000, 64)),
    }
    recognised = {}
    for name, machine in machines(parts.train):
        answers = {what: machine.predict_proba(vectors) for what, vectors in asked.items()}
        sure = answers["draws"].max(1) >= arguments.sure
        recognised[name] = {
            "heldout_accuracy": round(float((answers["real"].argmax(1) == parts.heldout.labels).mean()), 4),
            **{what: _share(found.max(1) >= arguments.sure) for what, found in answers.items()},
            **({} if wanted is None else {"as_asked": _share(sure & (answers["draws"].argmax(1) == wanted))}),
            **{what: kept_class(machine, found, answers["real"], arguments) for what, found in completed.items()},
            "classes": np.bincount(answers["draws"].argmax(1)[sure], minlength=10).tolist(),
        }
    line = {
        "prior": arguments.prior or "N(0, 1)",
        "psnr_db": round(float((10 * torch.log10(4 / error)).mean()), 3),
        "draws": arguments.draws,
        "sure": arguments.sure,
        "recognised": recognised,
        "nearest_training_digit": {
            what: _distances(asked[what], features(views(parts.train))) for what in ("draws", "real")
        },
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
