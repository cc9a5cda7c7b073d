"""New handshakes get the new certificate, and a bad file changes nothing."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from proxy.tls import ServerTls, client_context
from tests.proxy.certificates import write_certificate


class Files:
    def __init__(self, folder: Path) -> None:
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"

    def write(self, name: str) -> None:
        write_certificate(self.cert, self.key, name)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.write("first")
    return files


async def shake_hands(tls: ServerTls) -> str:
    """The name in the certificate that a real handshake shows."""

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    async with await asyncio.start_server(close, "127.0.0.1", 0, ssl=tls.context) as server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
    return "first" if b"first" in shown else "second" if b"second" in shown else "other"


async def test_a_changed_certificate_is_used_by_the_next_handshake(files: Files) -> None:
    tls = ServerTls(files.cert, files.key)
    assert await shake_hands(tls) == "first"
    assert not tls.reload_if_changed()
    files.write("second")
    assert tls.reload_if_changed()
    assert await shake_hands(tls) == "second"


async def test_a_certificate_without_its_key_waits_for_it(files: Files, tmp_path: Path) -> None:
    tls = ServerTls(files.cert, files.key)
    later = Files(tmp_path / "later")
    later.cert.parent.mkdir()
    later.write("second")
    files.cert.write_bytes(later.cert.read_bytes())
    assert not tls.reload_if_changed()
    assert await shake_hands(tls) == "first"
    files.key.write_bytes(later.key.read_bytes())
    assert tls.reload_if_changed()
    assert await shake_hands(tls) == "second"


async def test_files_that_vanish_or_break_change_nothing(files: Files) -> None:
    tls = ServerTls(files.cert, files.key)
    files.cert.write_text("junk")
    assert not tls.reload_if_changed()
    files.key.unlink()
    assert not tls.reload_if_changed()
    assert await shake_hands(tls) == "first"


async def test_the_files_are_looked_at_again_and_again(files: Files) -> None:
    tls, looks = ServerTls(files.cert, files.key), 0

    async def nap(_: float) -> None:
        nonlocal looks
        looks += 1
        files.write("second")
        if looks == 3:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await tls.watch(nap)
    assert await shake_hands(tls) == "second"


def test_old_versions_are_not_spoken(files: Files) -> None:
    assert ServerTls(files.cert, files.key).context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_file_of_roots_replaces_those_of_the_system(files: Files) -> None:
    context = client_context(files.cert)
    assert len(context.get_ca_certs()) == 1
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
