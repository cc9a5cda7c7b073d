"""Record keys open under the key-encryption keys that are there, and for their own record only."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.jobs.errors import VaultError
from proxy.jobs.sealing import RecordKey
from proxy.jobs.vault import Kek, KeyFile, KeyRing, Pepper, Vault, Wrapped


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "jobs.key"


@pytest.fixture
def vault(path: Path) -> Vault:
    return Vault(KeyFile.make(path))


def test_a_new_file_of_keys_is_its_owners_alone(path: Path) -> None:
    KeyFile.make(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_wrapped_key_comes_back(vault: Vault) -> None:
    key = RecordKey.new()
    assert vault.unwrap("job 1", vault.wrap("job 1", key)) == key


def test_a_key_is_of_one_record(vault: Vault) -> None:
    wrapped = vault.wrap("job 1", RecordKey.new())
    with pytest.raises(VaultError, match="another record"):
        vault.unwrap("job 2", wrapped)


def test_every_bit_of_a_wrapped_key_counts(vault: Vault) -> None:
    wrapped = vault.wrap("job 1", RecordKey.new())
    for at in range(len(wrapped.data) * 8):
        altered = bytearray(wrapped.data)
        altered[at // 8] ^= 1 << at % 8
        with pytest.raises(VaultError):
            vault.unwrap("job 1", Wrapped(wrapped.kek, bytes(altered)))


def test_every_truncation_of_a_wrapped_key_is_refused(vault: Vault) -> None:
    wrapped = vault.wrap("job 1", RecordKey.new())
    for length in range(len(wrapped.data)):
        with pytest.raises(VaultError):
            vault.unwrap("job 1", Wrapped(wrapped.kek, wrapped.data[:length]))


def test_after_a_rotation_the_new_key_wraps_and_the_old_one_still_unwraps(vault: Vault) -> None:
    key = RecordKey.new()
    old = vault.wrap("job 1", key)
    vault.put(vault.ring.rotated())
    assert vault.unwrap("job 1", old) == key
    assert vault.wrap("job 1", key).kek != old.kek


def test_a_retired_key_unwraps_nothing(vault: Vault) -> None:
    old = vault.wrap("job 1", RecordKey.new())
    vault.put(vault.ring.rotated())
    vault.put(vault.ring.retired())
    with pytest.raises(VaultError, match="not among"):
        vault.unwrap("job 1", old)


def test_another_process_that_meets_a_new_key_reads_the_file_again(path: Path, vault: Vault) -> None:
    other = Vault(KeyFile(path))
    vault.put(vault.ring.rotated())
    key = RecordKey.new()
    assert other.unwrap("job 1", vault.wrap("job 1", key)) == key


@pytest.mark.parametrize("text", ["", "\n", "00", "zz" * 32, "00" * 31, "00" * 32 + "\nrubbish\n"])
def test_a_file_that_has_no_keys_is_refused_and_not_quoted(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(VaultError) as caught:
        KeyFile(path)
    assert "rubbish" not in str(caught.value)


def test_a_file_that_was_spoilt_leaves_the_keys_in_force(path: Path, vault: Vault) -> None:
    path.write_text("spoilt")
    assert vault.changed() is None
    assert vault.unwrap("job 1", vault.wrap("job 1", RecordKey(bytes(32)))) == RecordKey(bytes(32))


def test_keys_survive_their_file() -> None:
    ring = KeyRing((Kek.new(), Kek.new()))
    assert KeyRing.parse(ring.encode()) == ring


def test_a_key_encryption_key_is_never_shown() -> None:
    kek = Kek.of(b"0123456789abcdef0123456789abcdef")
    assert "0123456789" not in repr(KeyRing((kek,)))
    assert kek.id not in kek.secret.hex()


def test_a_digest_is_of_one_purpose_and_of_its_parts() -> None:
    pepper = Pepper(RecordKey(bytes(32)))
    digests = {pepper.digest("a", b"b"), pepper.digest("b", b"b"), pepper.digest("a", b"", b"b"), pepper.digest("ab")}
    assert len(digests) == 4
    assert Pepper(RecordKey.new()).digest("a", b"b") not in digests
