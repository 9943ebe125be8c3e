"""Random numbers as a pure function of what they are for.

Nothing in a run draws from the position of a stream or from a rank: every number follows from the seed, a named
purpose and the place in the run (step, index of the sample in the global batch, epoch ...). Resuming is therefore
exact without saving any generator, and N processes draw what one process would.
"""

import zlib

import numpy as np
import torch


def derived_seed(seed: int, purpose: str, *place: int) -> int:
    """A 63-bit seed for `purpose` at `place`, from numpy's SeedSequence hash of all its arguments.

    Raises ValueError if `seed` or a coordinate of `place` is negative.
    """
    # SeedSequence takes trailing zeros for nothing, so the number of coordinates goes in too.
    words = (seed, zlib.crc32(purpose.encode()), len(place), *place)
    if min(words) < 0:
        raise ValueError(f"a seed and the place of a draw must be 0 or more, got seed={seed}, place={place}")
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def torch_generator(seed: int, purpose: str, *place: int) -> torch.Generator:
    """A CPU generator whose stream belongs to (`seed`, `purpose`, `place`) alone."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, *place))


def numpy_generator(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """A numpy generator whose stream belongs to (`seed`, `purpose`, `place`) alone."""
    return np.random.Generator(np.random.Philox(derived_seed(seed, purpose, *place)))


def sample_noise(
    seed: int,
    first: int,
    count: int,
    shape: tuple[int, ...],
    *,
    purpose: str = "posterior",
    device: torch.device | None = None,
) -> torch.Tensor:
    """Noise for the run's samples `first` .. `first + count - 1`.

    A sample's number is step * global batch size + its index in the global batch, so that the noise belongs to the
    sample and not to the process or micro-batch that happens to hold it.
    Returns [count, *shape] float32 from N(0, 1), drawn where it is used: on `device` (default the CPU), whose kind of
    generator decides which numbers a seed stands for.
    """
    device = device or torch.device("cpu")
    generator, noise = torch.Generator(device), torch.empty(count, *shape, device=device)
    for place in range(count):
        generator.manual_seed(derived_seed(seed, purpose, first + place))
        noise[place].normal_(generator=generator)
    return noise
