"""Who may use the server: names and passwords from a file that only its owner can read."""

import base64
import binascii
import hmac
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from latent_ae.errors import UserError


class AccountsError(UserError):
    """A file of names and passwords that cannot be used; the message says what to do."""


class Accounts:
    """Names and their passwords."""

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._passwords = dict(passwords)

    def allows(self, name: str, password: str) -> bool:
        """Whether this is the password of `name`, in a time that tells nothing of it."""
        known = self._passwords.get(name)
        same = hmac.compare_digest((known or "").encode(), password.encode())
        return same and known is not None

    def named(self, authorization: str | None) -> str | None:
        """The account that an Authorization header (HTTP basic) names with its password, None if there is none."""
        scheme, _, coded = (authorization or "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, colon, password = base64.b64decode(coded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return name if colon and self.allows(name, password) else None


def read_accounts(path: Path) -> Accounts:
    """The accounts in a file of lines `user:password`; empty lines and lines that start with # are left out.

    Raises AccountsError if the file cannot be read, others than its owner can read it, or a line is not of this form.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        # systemd lets the unit alone into its folder of credentials, and gives the files in it a mode of its own.
        if mode & 0o077 and str(path.parent) != os.environ.get("CREDENTIALS_DIRECTORY"):
            raise AccountsError(f"--auth-file {path}: others than its owner can read it ({mode:04o}): chmod 600 {path}")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise AccountsError(f"--auth-file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise AccountsError(f"--auth-file {path}: expected text in UTF-8") from None
    passwords: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, password = line.partition(":")
        if not (name.strip() and colon and password) or name != name.strip():
            raise AccountsError(f"--auth-file {path}, line {number}: expected user:password")
        if name in passwords:
            raise AccountsError(f"--auth-file {path}, line {number}: {name} has a line already")
        passwords[name] = password
    if not passwords:
        raise AccountsError(f"--auth-file {path}: expected lines user:password, found none")
    return Accounts(passwords)
