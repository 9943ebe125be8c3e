"""The file of accounts, and the passwords in it."""

from pathlib import Path

import pytest

from latent_ae.app.perimeter.accounts import Accounts, read_accounts


def test_accounts_are_lines_of_name_and_password(tmp_path: Path) -> None:
    file = tmp_path / "accounts"
    file.touch(mode=0o600)
    file.write_text("# staff\n\nann:a:b c \nbob:ü\n", encoding="utf-8")
    accounts = read_accounts(file)
    assert accounts.allows("ann", "a:b c ")
    assert accounts.allows("bob", "ü")
    for name, password in (("ann", "a"), ("ann", ""), ("bob", "u"), ("eve", ""), ("", ""), ("# staff", "")):
        assert not accounts.allows(name, password)
    assert Accounts({"ann": "ü:1"}).named("Basic YW5uOsO8OjE=")
    for header in (None, "", "Basic", "Basic !", "Bearer YW5uOsO8OjE=", "Basic YW5u"):
        assert not Accounts({"ann": "ü:1"}).named(header)


@pytest.mark.parametrize("text", ["", "# nobody\n", "ann\n", "ann:\n", ":secret\n", " ann:secret\n", "a:1\na:2\n"])
def test_account_files_of_another_form_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "accounts"
    file.touch(mode=0o600)
    file.write_text(text)
    with pytest.raises(match="--auth-file"):
        read_accounts(file)


def test_an_account_file_that_others_can_read_is_refused_unless_systemd_hands_it_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "accounts"
    file.write_text("ann:secret\n")
    for mode in (0o440, 0o604, 0o602):
        file.chmod(mode)
        with pytest.raises(match="chmod 600"):
            read_accounts(file)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_accounts(file).allows("ann", "secret")


def test_an_account_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(match="No such file"):
        read_accounts(tmp_path / "accounts")
