"""A prior over the codes of a VQModel: a causal transformer of the library transformers, which draws an image's codes.

    p(codes|y) = prod_i p(code_i | y, code_1 ... code_(i-1))        in raster order, as DALL-E's (Ramesh et al. 2021)

Its tokens are the K codes, then one for each class, then one for no class, which stands first in place of a class.
Probabilities are those among the codes alone. The folder is a stock one: `AutoModelForCausalLM` loads it and draws.

N: images; L: codes of an image, h * w.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from latent_ae.errors import UserError, one_line
from latent_ae.models.errors import ModelError
from latent_ae.models.learned_prior import DrawOptions
from latent_ae.models.loading import check_weights
from latent_ae.randomness import torch_generator

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, LogitsProcessor

CLASS = "GPT2LMHeadModel"
"""in `architectures` of its config.json"""
_BATCH = 64
"""images that are drawn or measured together"""


def build_network(  # noqa: PLR0917
    codebook_size: int, side: int, classes: Sequence[int], encoder_identity: str, width: int, depth: int, heads: int
) -> "GPT2LMHeadModel":
    """A transformer at its start, for side x side codes out of `codebook_size`.

    No value inside is dropped at random: what training draws follows from the seed and the sample's number alone.
    """
    from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel  # noqa: PLC0415  # seconds

    tokens = codebook_size + len(classes) + 1
    config = GPT2Config(
        vocab_size=tokens,
        n_positions=side**2 + 1,
        n_embd=width,
        n_layer=depth,
        n_head=heads,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=tokens - 1,
        eos_token_id=None,
        # What the library does not know:
        encoder_identity=encoder_identity,
        grid=[side, side],
        codebook_size=codebook_size,
        classes=list(classes),
    )
    network = GPT2LMHeadModel(config)
    network.generation_config = GenerationConfig(
        bos_token_id=tokens - 1, max_new_tokens=side**2, suppress_tokens=list(range(codebook_size, tokens))
    )
    return network


class TokenPrior:
    """A network of `build_network` as a prior.

    Raises ModelError for a config that says nothing, or something impossible, of the codes.
    """

    def __init__(self, network: "GPT2LMHeadModel") -> None:
        config = network.config
        try:
            height, width = map(int, config.grid)
            self.codebook_size, self.classes = int(config.codebook_size), tuple(map(int, config.classes))
            self.encoder_identity = str(config.encoder_identity)
        except (AttributeError, TypeError, ValueError) as error:
            raise ModelError(f"its config.json is not that of a prior of codes: {one_line(error)}") from error
        tokens, positions = self.codebook_size + len(self.classes) + 1, height * width
        if height != width or config.vocab_size != tokens or config.n_positions < positions:
            raise ModelError(
                f"its config.json contradicts itself: {config.vocab_size} tokens and {config.n_positions} positions "
                f"for {height}x{width} codes out of {self.codebook_size} and {len(self.classes)} classes"
            )
        self.network, self.side = network, height

    @property
    def uniform_bits(self) -> float:
        """Bits of an image whose codes are all as probable: log2 K for each."""
        return self.side**2 * math.log2(self.codebook_size)

    def to(self, device: torch.device) -> "TokenPrior":
        """Itself, moved."""
        self.network.to(device)
        return self

    def class_tokens(self, labels: Sequence[int | None]) -> Tensor:
        """What stands before the codes of an image of a class, or of none: [N] int64. Raises UserError for others."""
        known: dict[int | None, int] = {label: self.codebook_size + place for place, label in enumerate(self.classes)}
        known[None] = self.codebook_size + len(self.classes)
        if unknown := [label for label in labels if label not in known]:
            there = f"it knows {', '.join(map(str, self.classes))}" if self.classes else "it knows no classes"
            raise UserError(f"the prior knows no class {unknown[0]}: {there}")
        return torch.tensor([known[label] for label in labels])

    def in_turn(self, count: int) -> list[int | None]:
        """The classes for so many draws of which none is asked for; no class where there are none."""
        return [self.classes[place % len(self.classes)] if self.classes else None for place in range(count)]

    def drawn(self, count: int, *, seed: int, options: DrawOptions) -> Tensor:
        """Codes [count,h,w], of the label asked for or of the classes in turn; as every learned prior draws."""
        labels = self.in_turn(count) if options.label is None else [options.label] * count
        return self.draw(labels, seed=seed, options=options)

    def draw(
        self, labels: Sequence[int | None], *, seed: int, options: DrawOptions, kept: Tensor | None = None
    ) -> Tensor:
        """For each class, or None, codes [N,h,w] int64 on the CPU; a draw follows from the seed and its place alone.

        `kept` [M] are the first codes of every draw, in raster order. Raises UserError for a class that there is not.
        """
        first = self.class_tokens(labels)[:, None]
        if kept is not None:
            first = torch.cat([first, kept.expand(len(first), -1)], 1)
        parts = [
            self._generate(part, seed, range(start, start + len(part)), options)
            for start, part in zip(range(0, len(first), _BATCH), first.split(_BATCH), strict=True)
        ]
        codes: Tensor = torch.cat(parts).unflatten(1, (self.side, self.side))
        return codes

    def _generate(self, first: Tensor, seed: int, places: range, options: DrawOptions) -> Tensor:
        """[N, 1 + M] class and first codes => [N, L] all codes, by the library's `generate` with its cache.

        argmax(log p + g) of independent g from Gumbel(0, 1) is a draw from p: with noise by number in place of the
        library's own chance, a draw does not depend on what is drawn beside it.
        """
        from transformers import LogitsProcessorList  # noqa: PLC0415  # seconds

        rest = self.side**2 + 1 - first.shape[1]
        if rest == 0:
            return first[:, 1:]
        steps = LogitsProcessorList(_warpers(options))
        if options.temperature != 0:
            steps.append(_gumbel_noise(seed, places))
        with torch.inference_mode():
            given = first.to(self.network.device)
            tokens = self.network.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=rest,
                do_sample=False,
                use_cache=True,
                logits_processor=steps,
            )
        codes: Tensor = tokens[:, 1:].cpu()
        return codes

    @torch.no_grad()
    def bits(self, codes: Tensor, labels: Sequence[int | None]) -> Tensor:
        """Codes [N,h,w] and their classes => -log2 p(codes|class), exactly: [N] float64 on the CPU.

        Raises UserError for codes of another grid or codebook, and for classes that there are not.
        """
        if codes.shape[1:] != (self.side, self.side) or not bool(((codes >= 0) & (codes < self.codebook_size)).all()):
            raise UserError(
                f"expected codes of {self.side}x{self.side} from 0 to {self.codebook_size - 1}, got "
                f"{'x'.join(map(str, codes.shape[1:]))} up to {int(codes.max())}"
            )
        first, found = self.class_tokens(labels), []
        for part, start in zip(codes.flatten(1).split(_BATCH), first.split(_BATCH), strict=True):
            inputs = torch.cat([start[:, None], part[:, :-1]], 1).to(self.network.device)
            nats = code_nats(
                self.network(input_ids=inputs, use_cache=False).logits, part.to(inputs.device), self.codebook_size
            )
            found.append(nats.cpu().double().sum(1) / math.log(2))
        return torch.cat(found)


def code_nats(logits: Tensor, codes: Tensor, codebook_size: int) -> Tensor:
    """Logits [N,L,tokens] for codes [N,L] => -log of their probabilities among the codes alone, [N,L] float32."""
    return F.cross_entropy(logits[..., :codebook_size].float().transpose(1, 2), codes, reduction="none")


def load_token_prior(folder: str) -> TokenPrior:
    """The prior in a folder that train/train_prior.py wrote, in float32 and evaluation mode.

    Raises ModelError if it cannot be loaded, is not whole, or is a language model of another kind.
    """
    from transformers import GPT2LMHeadModel  # noqa: PLC0415  # seconds

    try:
        # transformers builds the model at random before it fills it, from the global generator.
        with torch.random.fork_rng(devices=[]), quiet_transformers():
            network, info = GPT2LMHeadModel.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                torch_dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported, and refused here
            )
    except (OSError, ValueError, RuntimeError, TypeError, LookupError, SafetensorError) as error:
        raise ModelError(f"cannot load the prior {folder}: {one_line(error)}") from error
    check_weights(folder, info)
    try:
        return TokenPrior(network.eval())
    except ModelError as error:
        raise ModelError(f"cannot load the prior {folder}: {error}") from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without its progress bars and its warnings about weights: here they are errors."""
    from transformers.utils import logging  # noqa: PLC0415  # seconds

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _warpers(options: DrawOptions) -> "list[LogitsProcessor]":
    """What the library's own sampling does to logits, in its order."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper  # noqa: PLC0415  # seconds

    warpers: list[Any] = []
    if options.temperature not in (None, 0, 1):
        warpers.append(TemperatureLogitsWarper(float(options.temperature)))
    if options.top_k is not None:
        warpers.append(TopKLogitsWarper(options.top_k))
    if options.top_p is not None and options.top_p < 1:
        warpers.append(TopPLogitsWarper(options.top_p))
    return warpers


def _gumbel_noise(seed: int, places: range) -> Callable[[Tensor, Tensor], Tensor]:
    """Adds to the scores of each draw noise that follows from the seed, the draw's place and the code's."""

    def add(tokens: Tensor, scores: Tensor) -> Tensor:
        noise = torch.empty(scores.shape)
        for row, place in zip(noise, places, strict=True):
            row.exponential_(generator=torch_generator(seed, "codes", place, tokens.shape[1]))
        return scores - noise.log().to(scores)

    return add
