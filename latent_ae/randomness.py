"""Random numbers as a pure function of the seed, a named purpose and a place in the run.

The place is the step, the index of the sample in the global batch, the epoch ...; never the position of a stream, and
never a rank. So a resumed run is exact without a saved generator state, and N processes draw what one process draws.
"""

import zlib

import numpy as np
import torch


def derived_seed(seed: int, purpose: str, *place: int) -> int:
    """A 63-bit seed for `purpose` at `place`, from numpy's SeedSequence hash of all its arguments.

    Raises ValueError if `seed` or a coordinate of `place` is negative.
    """
    # SeedSequence ignores trailing zeros, so the number of coordinates is hashed too.
    words = (seed, zlib.crc32(purpose.encode()), len(place), *place)
    if min(words) < 0:
        raise ValueError(f"a seed and the place of a draw must be 0 or more, got seed={seed}, place={place}")
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def place_of(sample_id: str) -> int:
    """The place of a sample that has a name and no number."""
    return zlib.crc32(sample_id.encode("utf-8", "surrogateescape"))  # file names need not be valid UTF-8


def torch_generator(seed: int, purpose: str, *place: int) -> torch.Generator:
    """A CPU generator for (`seed`, `purpose`, `place`)."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, *place))


def numpy_generator(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """A numpy generator for (`seed`, `purpose`, `place`)."""
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
    """Noise for the samples `first` .. `first + count - 1` of a run: [count, *shape] float32 from N(0, 1).

    A sample's number is step * global batch size + its index in the global batch: the noise depends on the sample, not
    on the process or micro-batch that holds it. It is drawn on `device` (None: the CPU); CPUs and GPUs draw different
    numbers from the same seed.
    """
    device = device or torch.device("cpu")
    generator, noise = torch.Generator(device), torch.empty(count, *shape, device=device)
    for place in range(count):
        generator.manual_seed(derived_seed(seed, purpose, first + place))
        noise[place].normal_(generator=generator)
    return noise
