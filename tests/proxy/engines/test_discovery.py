"""Engines behind names: found by a real name server's answers, whatever it answers, and attested all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import dns.rcode
import pytest
from structlog.testing import LogCapture

from core.program.http.listener import Address
from proxy.app import RunningProxy, running_proxy
from proxy.engines.discovery import LOOK_AGAIN_S, DirectoryError, Discovery, parse_engine
from proxy.engines.lease import Way
from proxy.engines.pool import MAX_ENGINES
from proxy.local.tls import ServerTls
from proxy.sender import ProxyParts
from proxy.settings import ProxySettings
from tests.proxy.certificates import write_certificate
from tests.proxy.conftest import status_url_of, url_of
from tests.proxy.engines.name_server import NameServer
from tests.proxy.fake_engine import FakeEngine
from tests.waiting import until

NAME = "engines.example"


@pytest.fixture
async def names() -> AsyncIterator[NameServer]:
    async with NameServer().running() as server:
        yield server


class Naps:
    """Naps that end when a test says so: time is up for all of them."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []
        self._over = asyncio.Event()

    async def nap(self, seconds: float) -> None:
        self.asked_s.append(seconds)
        over = self._over
        await over.wait()

    def end(self) -> None:
        self._over.set()
        self._over = asyncio.Event()


def finder(names: NameServer, *engines: str) -> Discovery:
    async def nap(_: float) -> None:
        await asyncio.sleep(0)

    return Discovery([parse_engine(engine) for engine in engines], names.directory, Way, nap=nap)


async def test_every_address_of_a_name_is_an_engine_that_is_asked_under_the_name(names: NameServer) -> None:
    names.say("A", NAME, "10.0.0.2", "10.0.0.1")
    names.say("AAAA", NAME, "fd00::1")
    assert await finder(names, f"dns+https://{NAME}:8800/base/").changes() == (
        Way("https://10.0.0.1:8800/base", f"{NAME}:8800"),
        Way("https://10.0.0.2:8800/base", f"{NAME}:8800"),
        Way("https://[fd00::1]:8800/base", f"{NAME}:8800"),
    )


async def test_every_host_and_port_of_a_service_is_an_engine(names: NameServer) -> None:
    names.say("SRV", f"_sottovoce._tcp.{NAME}", f"0 0 8801 one.{NAME}.", f"0 0 8802 two.{NAME}.")
    names.say("A", f"one.{NAME}", "10.0.0.1")
    names.say("A", f"two.{NAME}", "10.0.0.2", "10.0.0.3")
    assert await finder(names, f"srv+http://_sottovoce._tcp.{NAME}").changes() == (
        Way("http://10.0.0.1:8801", f"one.{NAME}:8801"),
        Way("http://10.0.0.2:8802", f"two.{NAME}:8802"),
        Way("http://10.0.0.3:8802", f"two.{NAME}:8802"),
    )


async def test_engines_may_be_named_in_every_way_at_once(names: NameServer) -> None:
    names.say("A", NAME, "10.0.0.1")
    found = await finder(names, "http://one:8800", f"dns+http://{NAME}").changes()
    assert found == (Way("http://one:8800"), Way("http://10.0.0.1", NAME))


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.NXDOMAIN, dns.rcode.REFUSED, dns.rcode.NOERROR])
async def test_a_name_that_leads_nowhere_changes_nothing(
    names: NameServer, rcode: dns.rcode.Rcode, log: LogCapture
) -> None:
    names.say("A", NAME, "10.0.0.1")
    discovery = finder(names, f"dns+http://{NAME}")
    found = await discovery.changes()
    names.records.clear()
    names.rcode = rcode
    assert await discovery.changes() == found
    (told,) = [entry for entry in log.entries if entry["event"] == "engines_not_found"]
    assert told["place"] == 0
    assert NAME not in repr(told)


async def test_half_an_answer_changes_nothing(names: NameServer) -> None:
    """Of a service, one host of which cannot be found."""
    service = f"_sottovoce._tcp.{NAME}"
    names.say("SRV", service, f"0 0 8801 one.{NAME}.")
    names.say("A", f"one.{NAME}", "10.0.0.1")
    discovery = finder(names, f"srv+http://{service}")
    found = await discovery.changes()
    names.say("SRV", service, f"0 0 8801 one.{NAME}.", f"0 0 8802 two.{NAME}.")
    assert await discovery.changes() == found


async def test_another_answer_is_heard_after_a_while(names: NameServer) -> None:
    naps = Naps()
    discovery = Discovery([f"dns+http://{NAME}"], names.directory, Way, nap=naps.nap)
    names.say("A", NAME, "10.0.0.1")
    await discovery.changes()
    names.say("A", NAME, "10.0.0.2")
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(discovery.changes())
        await until(lambda: naps.asked_s)
        naps.end()
    assert looking.result() == (Way("http://10.0.0.2", NAME),)
    assert naps.asked_s == [LOOK_AGAIN_S]


async def test_a_name_server_that_says_nothing_is_told_as_such(names: NameServer) -> None:
    names.silent = True
    directory = names.directory
    assert directory._resolver is not None
    directory._resolver.lifetime = 0.01
    with pytest.raises(DirectoryError, match="LifetimeTimeout"):
        await directory.addresses(NAME)


@pytest.mark.parametrize(
    "text",
    [
        "dns+http://10.0.0.1:8800",
        "dns+http://[::1]:8800",
        "dns+engines",
        "dns+ftp://engines",
        "dns+http://user@engines",
        "srv+http://_sottovoce._tcp.example:8800",
        "srv+http://engines.example",
        "srv+dns+http://_sottovoce._tcp.example",
        "tcp+http://engines",
    ],
)
def test_what_stands_behind_a_name_has_a_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"engine|name|without a port"):
        parse_engine(text)


@dataclass
class Fleet:
    """Engines on addresses of this machine that share a port, and a proxy that knows their name."""

    names: NameServer
    naps: Naps
    proxy: RunningProxy
    engines: list[FakeEngine] = field(default_factory=list)

    async def ask(self) -> int:
        async with (
            aiohttp.ClientSession(url_of(self.proxy)) as app,
            app.post("/v1/audio/transcriptions", data=b"canary") as response,
        ):
            await response.read()
            return response.status

    def ready(self) -> int:
        return sum(member.trust.is_ready for member in self.proxy.service.sender.engines.members)


@asynccontextmanager
async def fleet(
    policy: Path, names: NameServer, size: int, scheme: str = "http", **settings: object
) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        engines: list[FakeEngine] = []
        tls = settings.pop("tls", None)
        port = 0
        for number in range(size):
            engine = FakeEngine()
            await stack.enter_async_context(engine.running(tls, Address(f"127.0.0.{number + 2}", port)))  # type: ignore[arg-type]
            port = int(engine.url.rpartition(":")[2])
            engines.append(engine)
        names.say("A", NAME, "127.0.0.2")
        naps = Naps()
        given = {
            "engine": f"dns+{scheme}://{NAME}:{port}",
            "policy": policy,
            "listen": ("127.0.0.1:0",),
            "status_listen": "127.0.0.1:0",
            "insecure_remote_engine": True,
        }
        parts = ProxyParts(directory=names.directory, nap=naps.nap)
        proxy = await stack.enter_async_context(running_proxy(ProxySettings(**given | settings), parts))  # type: ignore[arg-type]
        yield Fleet(names, naps, proxy, engines)


async def test_engines_that_come_get_requests_and_those_that_leave_get_none(policy: Path, names: NameServer) -> None:
    async with fleet(policy, names, 2) as all_:
        first, second = all_.engines
        assert await all_.ask() == 200
        assert (len(first.received), len(second.received)) == (1, 0)
        names.say("A", NAME, "127.0.0.3")
        all_.naps.end()
        await until(lambda: second.attestations and all_.ready() == 1)
        assert [await all_.ask() for _ in range(3)] == [200] * 3
        assert (len(first.received), len(second.received)) == (1, 3)


async def test_a_name_server_that_names_strangers_sends_them_nothing(policy: Path, names: NameServer) -> None:
    """It can have an impostor asked for his attestation, and so deny; no more."""
    async with fleet(policy, names, 2) as all_:
        genuine, impostor = all_.engines
        impostor.config_changes["log_level"] = "debug"  # which the policy does not accept
        names.say("A", NAME, "127.0.0.2", "127.0.0.3")
        all_.naps.end()
        await until(lambda: impostor.attestations)
        assert [await all_.ask() for _ in range(5)] == [200] * 5
        names.say("A", NAME, "127.0.0.3")
        all_.naps.end()
        await until(lambda: len(all_.proxy.service.sender.engines.members) == 1)
        await until(lambda: all_.proxy.trust.last_attempt)
        assert await all_.ask() == 502
        assert impostor.received == []
        assert len(genuine.received) == 5


async def test_readiness_report_and_bundles_are_of_each_engine_by_its_place_and_say_nothing_of_where_it_is(
    policy: Path, names: NameServer
) -> None:
    async with fleet(policy, names, 2) as all_:
        refused = all_.engines[1]
        refused.config_changes["log_level"] = "debug"
        names.say("A", NAME, "127.0.0.2", "127.0.0.3")
        all_.naps.end()
        members = all_.proxy.service.sender.engines
        await until(lambda: len(members.held) == 1 and members.members[-1].trust.refused.is_set())
        async with aiohttp.ClientSession() as http:
            async with http.get(status_url_of(all_.proxy) + "/readyz?verbose") as response:
                ready = await response.text()
            async with http.get(url_of(all_.proxy) + "/attestation") as response:
                report = await response.json()
            bundles = []
            for place in (0, 1, 2, "x"):
                async with http.get(url_of(all_.proxy) + f"/attestation/bundle?engine={place}") as response:
                    bundles.append(response.status)
        assert "[+] engine 0 ready\n[-] engine 1 ready\nok\n" in ready
        assert (report["state"], report["ready"]) == ("attested", True)
        assert [(each["engine"], each["state"]) for each in report["engines"]] == [(0, "attested"), (1, "refused")]
        assert bundles == [200, 503, 503, 503]
        assert "127.0.0." not in ready + repr(report)
        assert NAME not in ready + repr(report)


async def test_a_flood_of_names_displaces_nobody_and_is_bounded(policy: Path, names: NameServer) -> None:
    async with fleet(policy, names, 1) as all_:
        assert await all_.ask() == 200
        names.say("A", NAME, *(f"127.0.1.{number}" for number in range(200)), "127.0.0.2")
        all_.naps.end()
        await until(lambda: len(all_.proxy.service.sender.engines.members) == MAX_ENGINES)
        assert await all_.ask() == 200
        async with (
            aiohttp.ClientSession(status_url_of(all_.proxy)) as probe,
            probe.get("/metrics") as response,
        ):
            lines = (await response.text()).splitlines()
        assert len([line for line in lines if line.startswith("sottovoce_proxy_engine_ready{")]) == MAX_ENGINES
        assert not [line for line in lines if "127.0." in line or NAME in line]


async def test_an_engine_is_asked_at_its_address_and_under_its_name(
    policy: Path, names: NameServer, tmp_path: Path
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(cert, key, NAME)
    tls = ServerTls(cert, key).context
    async with fleet(policy, names, 1, "https", tls=tls, ca_file=cert) as all_:
        assert await all_.ask() == 200
        (engine,) = all_.engines
        port = engine.url.rpartition(":")[2]
        assert dict(engine.received[0].outer_headers)["Host"] == f"{NAME}:{port}"


async def test_a_certificate_for_another_name_is_not_the_engines(
    policy: Path, names: NameServer, tmp_path: Path
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(cert, key, "other.example")
    tls = ServerTls(cert, key).context
    async with fleet(policy, names, 1, "https", tls=tls, ca_file=cert) as all_:
        assert await all_.ask() == 503
        (engine,) = all_.engines
        assert (engine.attestations, engine.received) == (0, [])
