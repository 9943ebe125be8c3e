import importlib.util
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
from accelerate.state import AcceleratorState, GradientState

from tests.program.running import TRAIN


@pytest.fixture(scope="session")
def train_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train", TRAIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def main(train_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[str]], int]]:
    """`main(argv)` of train/train.py, as if each call were the first in its process."""
    for name in ("ACCELERATE_USE_CPU", "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def fresh(argv: list[str]) -> int:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        result: int = train_module.main(argv)
        return result

    yield fresh
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
