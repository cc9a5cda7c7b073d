"""New handshakes get the new certificate, and a bad file changes nothing."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from structlog.testing import LogCapture

from proxy.local.tls import ServerTls
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


async def shake_hands(tls: ServerTls, server_name: str = "127.0.0.1") -> str:
    """The name in the certificate that a real handshake shows. server_name: an address is not told to the server."""

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    trusting.set_alpn_protocols(["http/1.1"])
    async with await asyncio.start_server(close, "127.0.0.1", 0, ssl=tls.context) as server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname=server_name)
        session = writer.get_extra_info("ssl_object")
        shown = session.getpeercert(binary_form=True)
        assert session.selected_alpn_protocol() == "http/1.1"
        writer.close()
    return "first" if b"first" in shown else "second" if b"second" in shown else "other"


async def test_a_changed_certificate_is_used_by_the_next_handshake(files: Files) -> None:
    tls = ServerTls(files.cert, files.key)
    assert await shake_hands(tls) == "first"
    assert not tls.changed()
    files.write("second")
    assert tls.changed()
    assert await shake_hands(tls) == "second"
    assert await shake_hands(tls, "localhost") == "second"


async def test_a_certificate_without_its_key_waits_for_it(files: Files, tmp_path: Path) -> None:
    tls = ServerTls(files.cert, files.key)
    later = Files(tmp_path / "later")
    later.cert.parent.mkdir()
    later.write("second")
    files.cert.write_bytes(later.cert.read_bytes())
    assert not tls.changed()
    assert await shake_hands(tls) == "first"
    files.key.write_bytes(later.key.read_bytes())
    assert tls.changed()
    assert await shake_hands(tls) == "second"


async def test_files_that_vanish_or_break_change_nothing(files: Files) -> None:
    tls = ServerTls(files.cert, files.key)
    files.cert.write_text("junk")
    assert not tls.changed()
    files.key.unlink()
    assert not tls.changed()
    assert await shake_hands(tls) == "first"


async def test_a_pair_that_does_not_fit_is_told_once(files: Files, log: LogCapture) -> None:
    tls = ServerTls(files.cert, files.key)
    files.cert.write_text("junk")
    for _ in range(3):
        assert not tls.changed()
    assert [entry["event"] for entry in log.entries] == ["certificate_not_reloaded"]


def test_old_versions_are_not_spoken(files: Files) -> None:
    tls = ServerTls(files.cert, files.key)
    files.write("second")
    newest = tls.changed()
    assert newest is not None
    assert newest.minimum_version is tls.context.minimum_version is ssl.TLSVersion.TLSv1_2
