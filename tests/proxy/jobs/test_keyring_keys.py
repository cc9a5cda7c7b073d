"""The operating system's keyring keeps keys as a file does, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends import fail, null
from keyring.backends.chainer import ChainerBackend

from proxy.jobs.errors import VaultError
from proxy.jobs.keyring_keys import KeyringKeys
from proxy.jobs.sealing import RecordKey
from proxy.jobs.vault import Vault
from tests.proxy.jobs.keyrings import FILE, FileKeyring, OpenKeyring


@pytest.fixture(autouse=True)
def in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(FILE, str(tmp_path / "keyring.json"))
    before = keyring.get_keyring()
    keyring.set_keyring(FileKeyring())
    yield
    keyring.set_keyring(before)


def test_keys_that_were_made_are_found_again() -> None:
    assert not KeyringKeys.exists("jobs")
    made = KeyringKeys.make("jobs")
    assert KeyringKeys.exists("jobs")
    assert KeyringKeys("jobs").read() == made.read()


def test_keys_of_one_entry_are_not_anothers() -> None:
    assert KeyringKeys.make("jobs").read() != KeyringKeys.make("others").read()


def test_another_process_that_meets_a_new_key_looks_again() -> None:
    vault = Vault(KeyringKeys.make("jobs"))
    other = Vault(KeyringKeys("jobs"))
    vault.put(vault.ring.rotated())
    key = RecordKey.new()
    assert other.unwrap("job 1", vault.wrap("job 1", key)) == key


def test_a_keyring_is_asked_no_more_often_than_it_must_be() -> None:
    vault = Vault(KeyringKeys.make("jobs"))
    before = FileKeyring.reads
    for _ in range(3):
        vault.unwrap("job 1", vault.wrap("job 1", RecordKey.new()))
    assert FileKeyring.reads == before
    assert not vault.watchable


def test_a_keyring_that_is_locked_by_now_leaves_the_keys_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    vault = Vault(KeyringKeys.make("jobs"))
    monkeypatch.setattr(FileKeyring, "is_locked", True)
    assert vault.changed() is None
    assert vault.unwrap("job 1", vault.wrap("job 1", RecordKey(bytes(32)))) == RecordKey(bytes(32))


def test_a_keyring_that_is_locked_opens_nothing_and_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileKeyring, "is_locked", True)
    for ask in (KeyringKeys.exists, KeyringKeys.make, KeyringKeys):
        with pytest.raises(VaultError) as caught:
            ask("jobs")
        assert "secret" not in str(caught.value)


def test_a_key_that_was_not_kept_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    vault = Vault(KeyringKeys.make("jobs"))
    before = vault.ring
    monkeypatch.setattr(FileKeyring, "is_deaf", True)
    with pytest.raises(VaultError, match="did not keep"):
        vault.put(vault.ring.rotated())
    assert vault.ring == before


def test_an_entry_that_is_not_there_or_is_no_key_is_refused() -> None:
    with pytest.raises(VaultError, match="no entry"):
        KeyringKeys("jobs")
    FileKeyring().set_password("sottovoce-jobs", "jobs", "hunter2")
    with pytest.raises(VaultError, match="64 hexadecimal digits") as caught:
        KeyringKeys("jobs")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("backend", [OpenKeyring, fail.Keyring, null.Keyring])
def test_what_keeps_no_secret_is_no_keyring(backend: type[KeyringBackend]) -> None:
    keyring.set_keyring(backend())
    with pytest.raises(VaultError, match="no keyring"):
        KeyringKeys.make("jobs")


def test_of_a_chain_only_what_keeps_secrets_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    keyring.set_keyring(ChainerBackend())  # type: ignore[no-untyped-call]
    monkeypatch.setattr(ChainerBackend, "backends", [OpenKeyring()])
    with pytest.raises(VaultError, match="no keyring"):
        KeyringKeys.make("jobs")
    monkeypatch.setattr(ChainerBackend, "backends", [FileKeyring(), OpenKeyring()])
    assert KeyringKeys.make("jobs").read() == KeyringKeys("jobs").read()
