"""Places that are shared fairly between visitors."""

from collections import Counter
from collections.abc import Hashable


class Shares:
    """A number of places, of which one visitor may hold at most as many as are left for all others.

    The first to come gets half of them, the next a quarter, and so on: no single visitor shuts the others out, and
    nobody has to be known beforehand. Several threads need a lock around it.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self._held: Counter[Hashable] = Counter()

    def take(self, visitor: Hashable, count: int = 1) -> bool:
        """Whether the visitor got `count` places; None, which stands for nobody, may take all that are left."""
        left = self.most - self.taken
        if count > left or (visitor is not None and self._held[visitor] + count > left):
            return False
        self.taken += count
        self._held[visitor] += count
        return True

    def give_back(self, visitor: Hashable, count: int = 1) -> None:
        """Return places that were taken."""
        self.taken -= count
        self._held[visitor] -= count
        if not self._held[visitor]:
            del self._held[visitor]

    def of(self, visitor: Hashable) -> int:
        """Places that a visitor holds."""
        return self._held[visitor]
