from collections.abc import Callable
from types import ModuleType

import pytest

from tests.program.running import TRAIN, here, load_program


@pytest.fixture(scope="session")
def train_module() -> ModuleType:
    return load_program(TRAIN)


@pytest.fixture
def main(train_module: ModuleType) -> Callable[[list[str]], int]:
    """`main(argv)` of train/train.py, as if each call were the first in its process."""
    return here(train_module)
