"""A prior of codes against probabilities that are worked out by hand, and as a stock folder."""

import json
import math
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from latent_ae.errors import UserError
from latent_ae.models.errors import ModelError
from latent_ae.models.learned_prior import DrawOptions
from latent_ae.models.prior_loading import load_prior
from latent_ae.models.token_prior import TokenPrior, build_network, code_nats, load_token_prior, quiet_transformers

K, CLASSES = 5, (2, 7)


def made(side: int = 2, *, classes: tuple[int, ...] = CLASSES, spread: float = 0.5) -> TokenPrior:
    """A small prior, moved away from its start, where all codes are about as probable."""
    torch.manual_seed(0)
    shape = {"codebook_size": K, "side": side, "classes": classes, "width": 8, "depth": 2, "heads": 2}
    network = build_network(**shape, encoder_identity="of the encoder").eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return TokenPrior(network)


def saved(prior: TokenPrior, folder: Path) -> Path:
    with quiet_transformers():
        prior.network.save_pretrained(folder)
    return folder


def every_grid(side: int = 2) -> Tensor:
    return torch.tensor(list(product(range(K), repeat=side**2))).unflatten(1, (side, side))


def probabilities(prior: TokenPrior, tokens: Tensor) -> Tensor:
    """Of the code after [N, M] tokens, by the whole network anew: [N, K]."""
    with torch.no_grad():
        return prior.network(input_ids=tokens, use_cache=False).logits[:, -1, :K].softmax(-1)


def test_the_probabilities_of_all_grids_sum_to_one_for_each_class_and_for_none() -> None:
    prior, grids = made(), every_grid()
    for label in (*CLASSES, None):
        bits = prior.bits(grids, [label] * len(grids))
        assert float((-bits * math.log(2)).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_bits_are_those_of_one_code_after_another() -> None:
    prior, grid = made(), torch.tensor([[[3, 0], [4, 1]]])
    tokens, expected = [K + 1], 0.0  # the second class
    for code in (3, 0, 4, 1):
        expected -= math.log2(float(probabilities(prior, torch.tensor([tokens]))[0, code]))
        tokens.append(code)
    assert float(prior.bits(grid, [7])) == pytest.approx(expected, rel=1e-5)


def test_without_a_preference_an_image_costs_log2_k_a_code() -> None:
    prior = made(side=3)
    torch.nn.init.zeros_(prior.network.lm_head.weight)
    assert prior.uniform_bits == 9 * math.log2(K)
    assert prior.bits(torch.randint(K, (4, 3, 3)), [None] * 4).tolist() == pytest.approx([prior.uniform_bits] * 4)


def test_the_loss_is_the_cross_entropy_among_the_codes_alone() -> None:
    logits = torch.tensor([[[1.0, 2.0, 50.0], [0.0, 0.0, -50.0]]])
    found = code_nats(logits, torch.tensor([[0, 1]]), 2)
    assert found.tolist()[0] == pytest.approx([math.log(1 + math.e), math.log(2)], rel=1e-6)


def test_without_temperature_a_draw_is_the_most_probable_code_each_time_as_found_without_a_cache() -> None:
    prior = made(side=3)
    found = prior.draw([2, None], seed=0, options=DrawOptions(temperature=0)).flatten(1)
    tokens = prior.class_tokens([2, None])[:, None]
    for _ in range(9):
        tokens = torch.cat([tokens, probabilities(prior, tokens).argmax(-1, keepdim=True)], 1)
    assert torch.equal(found, tokens[:, 1:])
    colder = prior.draw([2, None], seed=1, options=DrawOptions(temperature=1e-5)).flatten(1)
    assert torch.equal(found, colder)


def test_a_draw_follows_from_the_seed_and_its_place_and_not_from_what_is_drawn_beside_it() -> None:
    prior = made(side=3)
    many = prior.draw([7] * 70, seed=3, options=DrawOptions())  # more than a batch
    assert torch.equal(prior.draw([7] * 5, seed=3, options=DrawOptions()), many[:5])
    assert torch.equal(prior.draw([2, 7], seed=3, options=DrawOptions())[1], many[1])
    assert not torch.equal(prior.draw([7] * 70, seed=4, options=DrawOptions()), many)
    assert len(many.unique(dim=0)) > 60


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (DrawOptions(), lambda p: p),
        (DrawOptions(temperature=0.5), lambda p: p**2 / (p**2).sum()),
        (DrawOptions(top_k=2), lambda p: p.where(p >= p.sort().values[-2], torch.tensor(0.0))),
    ],
)
def test_codes_are_drawn_as_often_as_they_are_probable(options: DrawOptions, expected: object) -> None:
    prior, count = made(side=1), 4000
    found = prior.draw([7] * count, seed=0, options=options).flatten().bincount(minlength=K) / count
    assert callable(expected)
    shares = expected(probabilities(prior, torch.tensor([[K + 1]]))[0])
    assert found.tolist() == pytest.approx((shares / shares.sum()).tolist(), abs=4 * 0.5 / math.sqrt(count))


def test_top_p_takes_the_fewest_codes_of_that_probability() -> None:
    prior = made(side=1)
    shares, order = probabilities(prior, torch.tensor([[K]]))[0].sort(descending=True)
    drawn = prior.draw([2] * 500, seed=0, options=DrawOptions(top_p=float(shares[:2].sum()) - 1e-4))
    assert set(drawn.flatten().tolist()) == set(order[:2].tolist())


def test_kept_codes_stay_and_the_rest_depends_on_them() -> None:
    prior = made()
    kept = torch.tensor([4, 2])
    found = prior.draw([None] * 3, seed=0, options=DrawOptions(), kept=kept)
    assert found[:, 0].tolist() == [[4, 2]] * 3
    coldest = prior.draw([None], seed=0, options=DrawOptions(temperature=0), kept=kept)[0].flatten()
    third = probabilities(prior, torch.tensor([[K + 2, 4, 2]])).argmax()
    assert coldest[2] == third


def test_classes_are_drawn_in_turn_where_none_is_asked_for() -> None:
    prior = made()
    assert prior.in_turn(3) == [2, 7, 2]
    assert torch.equal(
        prior.drawn(3, seed=0, options=DrawOptions()), prior.draw([2, 7, 2], seed=0, options=DrawOptions())
    )
    assert made(classes=()).in_turn(2) == [None, None]


def test_stock_transformers_loads_the_folder_and_draws_codes(tmp_path: Path) -> None:
    prior = made(side=3)
    saved(prior, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    told = {"encoder_identity": "of the encoder", "grid": [3, 3], "codebook_size": K, "classes": [2, 7]}
    assert {name: config[name] for name in told} == told
    with quiet_transformers():
        stock = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.manual_seed(0)
    drawn = stock.generate(torch.tensor([[K + 1]] * 200), attention_mask=torch.ones(200, 1), do_sample=True)
    assert drawn.shape == (200, 10)
    assert int(drawn[:, 1:].max()) == K - 1, "no class is drawn"
    assert (
        stock.generate(do_sample=False)[0, 1:].tolist()
        == prior.draw([None], seed=0, options=DrawOptions(temperature=0)).flatten().tolist()
    ), "without anything given, of no class"


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    prior = made()
    before = torch.get_rng_state()
    loaded = load_prior(str(saved(prior, tmp_path)))
    assert isinstance(loaded, TokenPrior)
    assert not loaded.network.training
    assert torch.equal(torch.get_rng_state(), before), "loading draws nothing"
    assert torch.equal(loaded.bits(every_grid(), [2] * K**4), prior.bits(every_grid(), [2] * K**4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": None}, "its config.json is not that of a prior of codes"),
        ({"codebook_size": 4}, "contradicts itself: 8 tokens and 5 positions for 2x2 codes out of 4 and 2 classes"),
        ({"n_positions": 3}, "weights that do not fit its config.json: the first of them, "),
        ({"n_layer": 3}, "of its weights, the first of them transformer.h.2"),
    ],
)
def test_a_folder_that_is_not_whole_is_one_line(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    file = saved(made(), tmp_path) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(ModelError) as caught:
        load_token_prior(str(tmp_path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_weights_are_one_line(tmp_path: Path) -> None:
    (saved(made(), tmp_path) / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="cannot load the prior"):
        load_prior(str(tmp_path))


def test_what_cannot_be_drawn_or_measured_is_refused() -> None:
    prior = made()
    with pytest.raises(UserError, match="knows no class 3: it knows 2, 7"):
        prior.drawn(1, seed=0, options=DrawOptions(label=3))
    with pytest.raises(UserError, match="knows no class 0: it knows no classes"):
        made(classes=()).drawn(1, seed=0, options=DrawOptions(label=0))
    with pytest.raises(UserError, match="expected codes of 2x2 from 0 to 4, got 3x3 up to 0"):
        prior.bits(torch.zeros(1, 3, 3, dtype=torch.int64), [None])
    with pytest.raises(UserError, match="up to 5"):
        prior.bits(torch.full((1, 2, 2), 5), [None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top-k must be at least 1, got 0"),
        ({"top_p": 0.0}, "top-p must be above 0 and at most 1, got 0"),
        ({"top_p": 1.5}, "top-p must be above 0"),
        ({"temperature": -1.0}, "temperature must be from 0 to 100, got -1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DrawOptions(**options)
