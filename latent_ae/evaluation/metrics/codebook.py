"""Use of the codes of a codebook, and bits per pixel.

B h w: images and grid of codes; H W: pixels; K: codebook size.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from latent_ae.evaluation.metrics.moments import rounded


class CodebookStatistics:
    """Counts of each code over a data set, exact over any split of the images.

    With n codes in all, of which the share p_k is code k:

        entropy      H = -sum_k p_k log2 p_k, in bits; perplexity 2^H
        bits/pixel   uniform: n log2(K) / pixels, what indices of a fixed width take
                     entropy: n H / pixels, what an ideal entropy coder takes that knows the p_k and sees no context

    n codes use at most n entries of the codebook: with few images, any codebook looks unused.
    """

    def __init__(self, size: int) -> None:
        """`size` is K."""
        if size < 1:
            raise ValueError(f"a codebook has at least one code, got {size}")
        self.images = 0
        self.pixels = 0
        """H * W, summed over the images"""
        self.uses = torch.zeros(size, dtype=torch.int64)
        """[K] times that each code is used"""

    def update(self, codes: Tensor, *, pixels: int) -> None:
        """Add the codes [B, h, w], any integer type, of images of `pixels` = H * W pixels each, before padding.

        Raises ValueError for another shape or type, or codes outside of [0, K).
        """
        if pixels < 1:
            raise ValueError(f"an image has at least one pixel, got {pixels}")
        self.add(codes)
        self.pixels += len(codes) * pixels

    def add(self, codes: Tensor) -> None:
        """As `update`, but without `pixels`, which the caller sets."""
        if codes.ndim != 3 or codes.is_floating_point() or codes.dtype == torch.bool:
            raise ValueError(f"codes must be integers [B, h, w], got {codes.dtype} {list(codes.shape)}")
        flat = codes.detach().to("cpu").to(torch.int64).flatten()
        self._require_within(flat)
        self.images += len(codes)
        self.uses = self.uses + torch.bincount(flat, minlength=len(self.uses))

    def merge(self, other: "CodebookStatistics") -> None:
        """Add the images of `other`. Raises ValueError if its codebook has another size."""
        if len(other.uses) != len(self.uses):
            raise ValueError(f"codebooks must have one size, got {len(self.uses)} and {len(other.uses)} codes")
        self.images += other.images
        self.pixels += other.pixels
        self.uses = self.uses + other.uses

    def to_json(self) -> dict[str, Any]:
        """The counts of the codes that are used, as `from_json` reads them."""
        codes = self.uses.nonzero().flatten()
        return {
            "images": self.images,
            "pixels": self.pixels,
            "codes": codes.tolist(),
            "uses": self.uses[codes].tolist(),
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any], size: int) -> "CodebookStatistics":
        """What `to_json` gave, of K = `size`. Raises KeyError, TypeError and ValueError for others."""
        statistics = cls(size)
        statistics.images, statistics.pixels = tree["images"], tree["pixels"]
        codes, uses = (torch.tensor(tree[name], dtype=torch.int64) for name in ("codes", "uses"))
        if codes.shape != uses.shape:
            raise ValueError(f"codes and uses must be as many, got {list(codes.shape)} and {list(uses.shape)}")
        statistics._require_within(codes)
        statistics.uses[codes] = uses
        return statistics

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON, with `histogram` in place of K counts. Raises ValueError if there are no codes."""
        total, size = int(self.uses.sum()), len(self.uses)
        if not total:
            raise ValueError("there are no codes to describe")
        used = int((self.uses > 0).sum())
        entropy = self._entropy_bits()
        return {
            "images": self.images,
            "codes": total,
            "codebook_size": size,
            "used": used,
            "dead": size - used,
            "used_share": rounded(used / size),
            "perplexity": rounded(2**entropy),
            "entropy_bits": rounded(entropy),
            "bits_per_pixel_uniform": rounded(total * math.log2(size) / self.pixels),
            "bits_per_pixel_entropy": rounded(total * entropy / self.pixels),
            "histogram": self._histogram(),
        }

    def _require_within(self, codes: Tensor) -> None:
        if ((codes < 0) | (codes >= len(self.uses))).any():
            raise ValueError(f"codes must be in [0, {len(self.uses)}), got {int(codes.min())} to {int(codes.max())}")

    def _entropy_bits(self) -> float:
        shares = self.uses[self.uses > 0].double() / self.uses.sum()
        return max(0.0, float(-(shares * shares.log2()).sum()))  # one code alone gives -0.0

    def _histogram(self) -> list[dict[str, int]]:
        """How many codes are used 0 times, once, 2 to 3, 4 to 7, ... times, up to the most used."""
        _, exponent = torch.frexp(self.uses.double())  # 0 for no use, e for 2^(e-1) to 2^e - 1 uses
        codes = torch.bincount(exponent.to(torch.int64)).tolist()
        return [{"from": 2**e // 2, "to": 2**e - 1, "codes": count} for e, count in enumerate(codes)]
