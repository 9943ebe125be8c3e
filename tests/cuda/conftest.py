"""Tests that need an NVIDIA GPU: `pytest tests/cuda` on a machine that has one; elsewhere they are skipped."""

from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
