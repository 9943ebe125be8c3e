"""What the training loop relies on, held for every bottleneck and its options."""

import copy
import inspect

import pytest
import torch
from torch import Tensor

from latent_ae.models.bottlenecks import BOTTLENECKS, Bottleneck, BottleneckOutput
from latent_ae.models.parts import CODEBOOK, DECODER_SIDE, ENCODER_NETWORK
from tests.models.bottlenecks.tiny import (
    CHANNELS,
    CODES,
    QUANTIZERS,
    QUANTIZING,
    VARIANTS,
    build,
    codebook,
    inputs,
    tensors,
)

every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_quantizer = pytest.mark.parametrize("variant", QUANTIZERS)


def state_of(bottleneck: Bottleneck) -> dict[str, Tensor]:
    state = {name: value.clone() for name, value in bottleneck.named_buffers()}
    if hasattr(bottleneck, "codebook"):
        state["codebook"] = bottleneck.codebook.weight.detach().clone()
    return state


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def test_every_entry_of_the_table_is_held_to_the_contract() -> None:
    assert {kind for kind, *_ in VARIANTS.values()} == set(BOTTLENECKS)


@every_variant
def test_the_fields(variant: str) -> None:
    bottleneck = build(variant)
    assert list(inspect.signature(bottleneck.forward).parameters) == ["h", "noise"]
    h, noise = inputs(variant, bottleneck, batch=3, side=5)
    output = bottleneck(h.requires_grad_(), noise)
    assert isinstance(output, BottleneckOutput)
    assert output.latents.shape == (3, CHANNELS, 5, 5)
    assert output.latents.dtype == torch.float32
    assert all(value.shape == (3,) for value in (*output.losses.values(), *output.stats.values()))
    assert not any(value.requires_grad for value in (*output.stats.values(), *output.sums.values()))
    assert all(value.dtype == torch.float64 for value in output.sums.values())
    assert set(output.losses) <= set(bottleneck.trains)
    if output.candidates is not None:
        assert output.candidates.shape == (3, 8, CHANNELS)
        assert not output.candidates.requires_grad


@every_quantizer
def test_codes_are_counted(variant: str) -> None:
    bottleneck = build(variant)
    output = bottleneck(*inputs(variant, bottleneck))
    assert output.codes is not None
    assert output.codes.dtype == torch.int64
    assert output.codes.shape == (8, 4, 4)
    assert output.sums["counts"].tolist() == [int((output.codes == k).sum()) for k in range(CODES)]


@every_quantizer
def test_the_codebook_stays_a_part_of_the_stock_model(variant: str) -> None:
    bottleneck = build(variant)
    assert list(bottleneck.parameters()) == []
    assert not any("codebook" in name for name in bottleneck.state_dict())
    pair = torch.nn.ModuleDict({"codebook": bottleneck.codebook, "bottleneck": bottleneck})
    copied = copy.deepcopy(pair)
    assert copied["bottleneck"].codebook is copied["codebook"]
    assert copied["codebook"] is not pair["codebook"]


@every_variant
@pytest.mark.parametrize("training", [True, False])
def test_forward_is_pure(variant: str, training: bool) -> None:
    bottleneck = build(variant).train(training)
    h, noise = inputs(variant, bottleneck)
    before, random_state = state_of(bottleneck), torch.get_rng_state()
    first = list(tensors(bottleneck(h, noise)))
    second = list(tensors(bottleneck(h, noise)))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert_same(state_of(bottleneck), before)
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "kl"])  # it samples in eval mode too
def test_eval_mode_does_not_see_the_noise(variant: str) -> None:
    bottleneck = build(variant).eval()
    h, noise = inputs(variant, bottleneck)
    first, second = bottleneck(h, noise), bottleneck(h, -noise)
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


@every_variant
@pytest.mark.parametrize("split", [(4, 4), (1, 5, 2)])
def test_the_split_of_a_batch_does_not_matter(variant: str, split: tuple[int, ...]) -> None:
    whole, parts = build(variant), build(variant)
    for step in range(3):
        h, noise = inputs(variant, whole, seed=step)
        if step == 2:
            h = h.abs()  # leaves some codes without a vector
        one = whole(h, noise)
        many = [parts(*piece) for piece in zip(h.split(split), noise.split(split), strict=True)]
        for name, value in one.losses.items():
            torch.testing.assert_close(torch.cat([output.losses[name] for output in many]), value)
        sums = {name: sum(output.sums[name] for output in many) for name in one.sums}
        for name, value in one.sums.items():
            torch.testing.assert_close(sums[name], value, rtol=1e-12, atol=1e-12)
        candidates = [output.candidates for output in many]
        together = None if one.candidates is None else one.candidates.flatten(0, 1)
        log = whole.after_update(one.sums, together, seed=step)
        assert log == parts.after_update(
            sums, None if together is None else torch.cat(candidates).flatten(0, 1), seed=step
        )
        assert_same(state_of(whole), state_of(parts))


@every_quantizer
def test_the_state_is_saved_and_loaded(variant: str) -> None:
    ran, loaded = build(variant), build(variant)
    for step in range(4):
        if step == 2:
            loaded.load_state_dict(ran.state_dict())
            loaded.codebook.load_state_dict(ran.codebook.state_dict())
        for bottleneck in (ran, loaded)[: 1 if step < 2 else 2]:
            bottleneck.at_step(step)
            output = bottleneck(*inputs(variant, bottleneck, seed=step))
            candidates = output.candidates.flatten(0, 1) if bottleneck.wants_candidates() else None
            bottleneck.after_update(output.sums, candidates, seed=step)
    assert_same(state_of(ran), state_of(loaded))


@every_quantizer
def test_the_log(variant: str) -> None:
    bottleneck = build(variant)
    output = bottleneck(*inputs(variant, bottleneck))
    counts = output.sums["counts"]
    log = bottleneck.after_update(output.sums, None, seed=0)
    share = counts[counts > 0] / counts.sum()
    assert log["codebook_usage"] == pytest.approx(len(share) / CODES)
    assert log["perplexity"] == pytest.approx(float(torch.exp(-(share * share.log()).sum())))
    assert log["dead_codes"] == 0.0
    for _ in range(70):
        log = bottleneck.after_update(output.sums, None, seed=0)
    assert log["dead_codes"] == CODES - len(share)


@every_variant
def test_gradients_go_where_they_are_said_to(variant: str) -> None:
    bottleneck = build(variant)
    h, noise = inputs(variant, bottleneck)
    output = bottleneck(h.requires_grad_(), noise)
    quantizes = variant in QUANTIZERS
    reached: dict[str, set[str]] = {}
    for name, value in ({"reconstruction": output.latents * torch.randn_like(output.latents)} | output.losses).items():
        sources = [h, bottleneck.codebook.weight] if quantizes and bottleneck.codebook.weight.requires_grad else [h]
        found = torch.autograd.grad(value.sum(), sources, retain_graph=True, allow_unused=True)
        names = ("encoder", CODEBOOK)
        reached[name] = {
            place for place, gradient in zip(names, found, strict=False) if gradient is not None and gradient.any()
        }
    assert reached.pop("reconstruction") == set(bottleneck.reconstruction_trains) - {*DECODER_SIDE, "quant_conv"}
    assert bottleneck.reconstruction_trains >= {*ENCODER_NETWORK, *DECODER_SIDE}
    assert reached == {name: set(bottleneck.trains[name]) - {"quant_conv"} for name in reached}


@every_variant
def test_half_precision_outside_changes_nothing_inside(variant: str) -> None:
    bottleneck = build(variant)
    h, noise = inputs(variant, bottleneck)
    h = h.bfloat16()
    plain = bottleneck(h.float(), noise)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = bottleneck(h, noise)
    assert all(torch.equal(a, b) for a, b in zip(tensors(plain), tensors(mixed), strict=True))


@pytest.mark.slow  # compiles
# torch's own tracing of autograd functions
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@every_variant
def test_one_graph_compiles(variant: str) -> None:
    bottleneck = build(variant)
    h, noise = inputs(variant, bottleneck)
    compiled = torch.compile(bottleneck, fullgraph=True, backend="eager")
    for step in range(2):
        bottleneck.at_step(step)
        for a, b in zip(tensors(compiled(h, noise)), tensors(bottleneck(h, noise)), strict=True):
            torch.testing.assert_close(a, b)


def test_a_codebook_of_two() -> None:
    for kind in ("vq", "ema_vq", "gumbel"):
        bottleneck = QUANTIZING[kind](codebook(2, 3))
        output = bottleneck(torch.randn(2, 3, 2, 2), torch.randn(2, *bottleneck.noise_shape((3, 2, 2))))
        assert set(output.codes.unique().tolist()) <= {0, 1}
