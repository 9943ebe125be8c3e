"""The statistics that group normalisation takes of an image, added up over strips of its rows."""

import torch
from torch import Tensor, nn

_FEW_ROWS = 8
"""that stand for those of a strip where memory is predicted"""


class Sums:
    """Mean and variance of each group of channels over the whole image, added up strip by strip in float64."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        self._groups = norm.num_groups
        self._places = 0
        self._near = torch.zeros(0)
        """a value near each channel's mean, from which it counts: squares of large values would lose digits"""
        self._sum = self._squares = torch.zeros(norm.num_channels, dtype=torch.float64, device=norm.weight.device)

    def add(self, rows: Tensor) -> None:
        """Count [1, C, H, W]. torch's own normalisation of float32 in channels-last order loses three digits."""
        if rows.is_meta:  # where memory is predicted, what a strip's sums take at once is enough
            torch.empty_like(rows[:, :, :_FEW_ROWS], dtype=torch.float32)
            return
        values = rows.permute(0, 2, 3, 1).reshape(-1, rows.shape[1])
        if not self._places:
            self._near = values[: rows.shape[3]].float().mean(0)
        centred = values.float().sub_(self._near) if values.dtype != torch.float32 else values - self._near
        self._sum = self._sum + centred.sum(0)
        self._squares = self._squares + centred.square_().sum(0)
        self._places += len(values)

    def by_channel(self) -> tuple[Tensor, Tensor]:
        """(mean, variance) of each channel's group, [C] float32."""
        if self._sum.is_meta:
            return self._sum, self._squares
        sums, near = self._sum / self._places, self._near.double()
        width = len(near) // self._groups
        means = (near + sums).view(self._groups, width)
        mean = means.mean(1)
        within = (self._squares / self._places - sums.square()).view(self._groups, width).mean(1)
        variance = (within + (means - mean[:, None]).square().mean(1)).clamp(min=0)
        return mean.float().repeat_interleave(width), variance.float().repeat_interleave(width)
