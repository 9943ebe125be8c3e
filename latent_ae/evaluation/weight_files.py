"""Files of published network weights: where they are and whether they are complete."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from latent_ae.errors import UserError
from latent_ae.io.checksum import file_sha256


@dataclass(frozen=True)
class WeightFile:
    """A file that is published at an address, under a name that ends in the beginning of its sha256."""

    address: str
    other_names: Sequence[str] = ()
    """names under which other programs cache the same file"""

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.address.rpartition("/")[2]

    @property
    def sha256_prefix(self) -> str:
        """The beginning of its sha256 in hex."""
        match = re.search(r"-([0-9a-f]{8,})\.", self.name)
        assert match is not None, self.name
        return match.group(1)

    @property
    def place(self) -> Path:
        """Where torch hub caches it."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.name

    def find(self, given: Path | None, setting: str) -> Path | None:
        """The file `given` in `setting`, whatever it is; else the cached one; None if there is none.

        Raises UserError if the given one is not a file or the cached one is damaged.
        """
        if given is not None:
            if not given.is_file():
                raise UserError(f"{setting} {given} is not a file: give {self.address}")
            return given
        for cached in (self.place.with_name(name) for name in (self.name, *self.other_names)):
            if cached.is_file():
                if not file_sha256(cached).startswith(self.sha256_prefix):
                    raise UserError(
                        f"{cached} is damaged: its sha256 does not begin with {self.sha256_prefix}; delete it and "
                        f"fetch {self.address} again"
                    )
                return cached
        return None

    def download(self) -> Path:
        """Fetch it into torch hub's cache. Raises OSError or RuntimeError: no connection, no room, another content."""
        self.place.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(self.address, str(self.place), hash_prefix=self.sha256_prefix)
        return self.place

    def described(self, path: Path, publisher: str) -> str:
        """`path` with the beginning of its sha256, for a protocol; says so if it is not the published file."""
        sha256 = file_sha256(path)
        known = "" if sha256.startswith(self.sha256_prefix) else f" (not {publisher}'s {self.name})"
        return f"{path.name} sha256 {sha256[:16]}{known}"
