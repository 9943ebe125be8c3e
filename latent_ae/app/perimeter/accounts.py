"""Accounts: names and passwords from a file, asked for by HTTP basic authentication and Gradio's login page."""

import base64
import binascii
import hmac
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from latent_ae.errors import UserError


class Accounts:
    """Names and their passwords."""

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._passwords = dict(passwords)

    def allows(self, name: str, password: str) -> bool:
        """Whether this is the password of `name`, in constant time."""
        known = self._passwords.get(name)
        same = hmac.compare_digest((known or "").encode(), password.encode())
        return same and known is not None

    def named(self, authorization: str | None) -> str | None:
        """The account of an Authorization header (HTTP basic) with the right password, else None."""
        scheme, _, coded = (authorization or "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, colon, password = base64.b64decode(coded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return name if colon and self.allows(name, password) else None


def read_accounts(path: Path) -> Accounts:
    """The accounts in a file of lines `user:password`, without empty lines and lines that start with #.

    Raises UserError for a malformed line, and if the file cannot be read or others than its owner can read it.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        # systemd lets only the unit into its folder of credentials, and gives the files in it a mode of its own.
        if mode & 0o077 and str(path.parent) != os.environ.get("CREDENTIALS_DIRECTORY"):
            raise UserError(f"--auth-file {path}: others than its owner can read it ({mode:04o}): chmod 600 {path}")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"--auth-file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"--auth-file {path}: expected text in UTF-8") from None
    passwords: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, password = line.partition(":")
        if not (name.strip() and colon and password) or name != name.strip():
            raise UserError(f"--auth-file {path}, line {number}: expected user:password")
        if name in passwords:
            raise UserError(f"--auth-file {path}, line {number}: {name} is already listed")
        passwords[name] = password
    if not passwords:
        raise UserError(f"--auth-file {path}: expected lines user:password, found none")
    return Accounts(passwords)
