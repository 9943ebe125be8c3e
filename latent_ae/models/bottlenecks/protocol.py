"""What every bottleneck is and returns, and what the settings of its kind say about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from latent_ae.config import LossConfig, ModelConfig, Section
from latent_ae.models.autoencoder import Autoencoder
from latent_ae.models.parts import DECODER_SIDE, ENCODER_NETWORK


class BottleneckOutput(NamedTuple):
    """The latents and what they cost. A NamedTuple, so that accelerate and DDP see the tensors in it."""

    latents: Tensor
    """[B, c, h, w] raw latents that the decoder side gets"""
    losses: dict[str, Tensor]
    """unweighted terms by name, [B] each, in the unit of the term (kl: nats per image)"""
    stats: dict[str, Tensor]
    """what to log beside the losses, [B] each, without gradient"""
    sums: dict[str, Tensor]
    """float64 sums over the batch, of shapes that do not depend on it, that `Bottleneck.after_update` wants over the
    global batch; without gradient"""
    codes: Tensor | None = None
    """[B, h, w] codebook indices, int64; None where there is no codebook"""
    candidates: Tensor | None = None
    """[B, n, c] vectors of each image that may replace unused codes, without gradient; None where none are wanted"""


class Bottleneck(nn.Module):
    """What happens between encoder and decoder.

    The forward is a pure function of its arguments, of parameters and of buffers, and changes none of them: whatever
    state a bottleneck has besides its parameters moves in `after_update`, on sums over the global batch, so that the
    model does not depend on how that batch was split over processes and micro-batches.
    """

    reconstruction_trains: ClassVar[frozenset[str]] = frozenset((*ENCODER_NETWORK, *DECODER_SIDE))
    """modules that a loss on the reconstruction reaches"""
    trains: ClassVar[dict[str, frozenset[str]]] = {}
    """modules that each term of its own reaches"""
    moved: Tensor | None = None
    """codes that the last `after_update` put elsewhere, int64 [n]: what others keep of them (an average, an optimizer's
    moments) is of the place they left"""

    def forward(self, h: Tensor, noise: Tensor) -> BottleneckOutput:
        """What the encoder side gives [B,?,h,w] and the samples' noise [B, *noise_shape] from N(0, 1) => output."""
        raise NotImplementedError  # abstract: every bottleneck has its own

    def noise_shape(self, latent_shape: tuple[int, int, int]) -> tuple[int, ...]:  # noqa: ARG002
        """Shape of the noise of one sample for latents (c, h, w); (0,) where none is used."""
        return (0,)

    def at_step(self, step: int) -> None:
        """Take on the schedules' values of an update; called before its first forward."""

    def start_from(self, vectors: Tensor, *, seed: int) -> None:
        """Start the codebook from what the fresh encoder side gives, [N, c], where the settings ask for it."""

    def wants_candidates(self) -> bool:
        """Whether the next `after_update` needs candidates; the same on every process."""
        return False

    def after_update(
        self,
        sums: dict[str, Tensor],  # noqa: ARG002 - nothing to move in the simplest case
        candidates: Tensor | None,  # noqa: ARG002
        *,
        seed: int,  # noqa: ARG002
    ) -> dict[str, float]:
        """Move the state after an update of the weights, the same on every process; what to log about it.

        Args:
            sums: `BottleneckOutput.sums` added up over the global batch.
            candidates: [N, c] `BottleneckOutput.candidates` of the global batch, in the order of its samples.
            seed: of this update; all randomness here follows from it.
        """
        return {}

    @contextmanager
    def in_full_force(self) -> Iterator[None]:
        """Lift, for preflight, what rightly keeps a term at 0 in a fresh run."""
        yield

    def fold(self, autoencoder: nn.Module) -> None:
        """Make a stock model with (averaged) weights compute by itself what this bottleneck computes."""


class BottleneckConfig(Section):
    """A kind of bottleneck: its settings, and what the project asks about it. Base of the entries of BOTTLENECKS."""

    kind: str
    """name in the table"""

    stock_class: ClassVar[Literal["AutoencoderKL", "VQModel"]] = "AutoencoderKL"
    """the diffusers class that it trains"""
    loss: ClassVar[type[LossConfig]] = LossConfig
    """the `loss` section, with the weights of the bottleneck's terms"""
    free_codes: ClassVar[bool] = False
    """whether codes move to where vectors are, so that a linear start need not whiten the latents for them"""
    title: ClassVar[str] = "An autoencoder (`diffusers.AutoencoderKL`)"
    """what the model card calls the result"""
    latents_are: ClassVar[Literal["sample", "mode", "codes"]] = "mode"
    """the latents whose statistics are measured, in latent_stats.json"""
    measured_on: ClassVar[str] = "the latents"
    """the same in words, in the model card"""

    def build(self, autoencoder: Autoencoder, loss: LossConfig) -> Bottleneck:
        """The module, on the autoencoder's own codebook if it has one. `loss` is of the class `self.loss`."""
        raise NotImplementedError  # abstract

    def stock_arguments(self, latent_channels: int) -> dict[str, object]:  # noqa: ARG002
        """Arguments of the stock class that follow from the settings. Raises ModelError for what does not fit."""
        return {}

    def check_model(self, model: ModelConfig) -> None:
        """Raises ValueError for settings of the model that are missing, or without effect here."""
        if model.start_logvar:
            raise ValueError(f"model.start_logvar has no effect with bottleneck.kind {self.kind}: leave it out")

    def check_frozen_codebook(self) -> None:
        """Raises ConfigError for settings that would move a codebook which the run does not train."""

    def starts_codebook(self, *, fresh: bool) -> bool:  # noqa: ARG002
        """Whether `Bottleneck.start_from` is to be called; `fresh`: the model has random weights."""
        return False
