"""Codebook statistics against numbers worked out by hand and scipy."""

import json

import pytest
import torch
from scipy.stats import entropy
from torch import Tensor

from latent_ae.evaluation.metrics.codebook import CodebookStatistics


def measured(size: int, *batches: tuple[Tensor, int]) -> CodebookStatistics:
    statistics = CodebookStatistics(size)
    for codes, pixels in batches:
        statistics.update(codes, pixels=pixels)
    return statistics


def test_by_hand() -> None:
    """Shares 1/2, 1/4, 1/8, 1/8: entropy 1.75 bits. Eight codes for 64 + 16 pixels, at log2(8) = 3 bits or 1.75."""
    statistics = measured(8, (torch.zeros(1, 2, 2, dtype=torch.int64), 64), (torch.tensor([[[1, 1, 2, 7]]]), 16))
    assert statistics.uses.tolist() == [4, 2, 1, 0, 0, 0, 0, 1]
    got = statistics.to_dict()
    assert (got["images"], got["codes"], got["codebook_size"]) == (2, 8, 8)
    assert (got["used"], got["dead"], got["used_share"]) == (4, 4, 0.5)
    assert got["entropy_bits"] == pytest.approx(1.75)
    assert got["perplexity"] == pytest.approx(2**1.75)
    assert got["bits_per_pixel_uniform"] == pytest.approx(8 * 3 / 80)
    assert got["bits_per_pixel_entropy"] == pytest.approx(8 * 1.75 / 80)
    assert got["histogram"] == [
        {"from": 0, "to": 0, "codes": 4},
        {"from": 1, "to": 1, "codes": 2},
        {"from": 2, "to": 3, "codes": 1},
        {"from": 4, "to": 7, "codes": 1},
    ]
    json.dumps(got, allow_nan=False)


def test_one_code_alone_takes_no_bits() -> None:
    got = measured(4, (torch.full((3, 2, 2), 3), 16)).to_dict()
    assert (got["entropy_bits"], got["perplexity"], got["used"]) == (0, 1, 1)
    assert str(got["bits_per_pixel_entropy"]) == "0.0"


def test_codes_used_alike_take_all_bits() -> None:
    got = measured(64, (torch.arange(64).reshape(4, 4, 4), 256)).to_dict()
    assert (got["perplexity"], got["dead"]) == (64, 0)
    assert got["bits_per_pixel_entropy"] == got["bits_per_pixel_uniform"] == 16 * 6 / 256


def test_any_split_and_integer_type_and_scipys_entropy() -> None:
    generator = torch.Generator().manual_seed(5)
    codes = (torch.rand(12, 5, 3, generator=generator).square() * 300).to(torch.int64)
    whole = measured(300, (codes, 240))
    parts = [
        measured(300, (codes[i::3].to(kind), 240)) for i, kind in enumerate((torch.int32, torch.uint16, torch.int64))
    ]
    merged = CodebookStatistics(300)
    for part in reversed(parts):
        merged.merge(part)
    assert merged.to_dict() == whole.to_dict()
    assert whole.to_dict()["entropy_bits"] == pytest.approx(entropy(torch.bincount(codes.flatten()).numpy(), base=2))
    assert parts[0].images == 4  # merging leaves what is merged alone


def test_counts_come_back_from_json() -> None:
    statistics = measured(8, (torch.tensor([[[5, 1], [1, 1]]]), 16))
    tree = statistics.to_json()
    assert tree == {"images": 1, "pixels": 16, "codes": [1, 5], "uses": [3, 1]}
    assert CodebookStatistics.from_json(tree, 8).to_dict() == statistics.to_dict()
    with pytest.raises(ValueError, match=r"codes must be in \[0, 5\), got 1 to 5"):
        CodebookStatistics.from_json(tree, 5)
    with pytest.raises(ValueError, match="codes and uses must be as many"):
        CodebookStatistics.from_json({**tree, "uses": [3]}, 8)


def test_what_cannot_be_measured_is_refused() -> None:
    statistics = CodebookStatistics(4)
    for codes in (torch.tensor([[[0, 4]]]), torch.tensor([[[-1, 0]]])):
        with pytest.raises(ValueError, match=r"codes must be in \[0, 4\), got (0 to 4|-1 to 0)"):
            statistics.update(codes, pixels=4)
    for codes in (torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool), torch.tensor([[0]])):
        with pytest.raises(ValueError, match=r"codes must be integers \[B, h, w\]"):
            statistics.update(codes, pixels=4)
    with pytest.raises(ValueError, match="at least one pixel, got 0"):
        statistics.update(torch.tensor([[[0]]]), pixels=0)
    with pytest.raises(ValueError, match="one size, got 4 and 8 codes"):
        statistics.merge(CodebookStatistics(8))
    with pytest.raises(ValueError, match="at least one code, got 0"):
        CodebookStatistics(0)
    with pytest.raises(ValueError, match="no codes to describe"):
        statistics.to_dict()
    assert (statistics.images, statistics.pixels) == (0, 0)
