"""What can the user of a proxy choose? One frozen value, from flags, variables or a file.

Danger says so by name: `allow_remote_clients` and `insecure_remote_engine` are the only ways past the two rules that
keep plaintext on this machine and development evidence off the network.
"""

from __future__ import annotations

import errno
import re
import socket
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode
from yarl import URL

from attestation.collateral.options import CollateralOptions
from attestation.fetch import parse_engine_url
from attestation.release.trust import TrustOptions
from core.channel.pacing import Shaping
from core.program.http.client import is_this_machine
from core.program.http.listener import Address
from core.program.push import PushOptions
from core.program.settings import SecretFile
from proxy.engines.discovery import parse_engine, url_of
from proxy.jobs_options import JobsOptions, SourceOptions

DEFAULT_PORT = 8080
DEFAULT_STATUS_LISTEN = "127.0.0.1:8081"


def _split(value: object) -> object:
    """One variable holds a list with commas; flags and files hold lists."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _address(text: str) -> str:
    Address.parse(text)
    return text


_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:\[[0-9a-f:.]+\]|[^\s/?#@:\[\]\\,*]+)(?::(?P<port>[0-9]{1,5}))?"
)
_DEFAULT_PORTS = {("http", "80"), ("https", "443")}


def _origin(text: str) -> str:
    """As a browser serialises one (RFC 6454, section 6.2), of a web page, an extension, or an app in a web view."""
    found = _ORIGIN.fullmatch(text.lower())
    if text == "null":
        return text
    if found is None or not text.isascii() or (found["scheme"], found["port"]) in _DEFAULT_PORTS:
        raise ValueError("an origin is SCHEME://HOST[:PORT] without the scheme's own port, or null")
    return text.lower()


def _relay(text: str) -> str:
    try:
        return parse_engine_url(text)
    except ValueError as exc:
        raise ValueError(str(exc).replace("an engine's", "a relay's")) from None


def _any(engines: tuple[str, ...]) -> tuple[str, ...]:
    if not engines:
        raise ValueError("there is no engine")
    return engines


def _host(text: str) -> str:
    """A host as it stands in a Host header, without its port."""
    host = text.lower().removeprefix("[").removesuffix("]")
    if not host or set(host) & set("/@?# \\"):
        raise ValueError("a host is a name or an address, without a port")
    return host


Engines = Annotated[
    tuple[Annotated[str, AfterValidator(parse_engine)], ...],
    NoDecode,
    BeforeValidator(_split),
    AfterValidator(_any),
]
RelayUrl = Annotated[str, AfterValidator(_relay)]
ListenAddress = Annotated[str, AfterValidator(_address)]
Addresses = Annotated[tuple[Annotated[str, AfterValidator(_address)], ...], NoDecode, BeforeValidator(_split)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_split)]
Hosts = Annotated[tuple[Annotated[str, AfterValidator(_host)], ...], NoDecode, BeforeValidator(_split)]


class ProxySettings(TrustOptions, CollateralOptions, PushOptions, JobsOptions, SourceOptions):
    """Settings of `sottovoce proxy`.

    Every rule belongs to a field, those between two fields to the later one, so that all faults come in one message.
    """

    engine: Engines = Field(
        description="URL of an engine; http is enough, since every request is sealed. May be repeated: each is "
        "verified, and a request goes to the one with the least to do. dns+http://NAME:PORT is one at every address "
        "of the name, srv+http://_SERVICE._tcp.DOMAIN one at every host and port of the service."
    )
    relay: RelayUrl | None = Field(
        None,
        description="URL of a relay: engines are asked as RELAY/HOST:PORT/..., for their attestation too.",
    )
    api_key: SecretFile | None = Field(
        None, description="@FILE with the engine's API key; replaces the Authorization of the apps."
    )
    token: SecretFile | None = Field(None, description="@FILE with a token that apps must show to this proxy.")
    allow_remote_clients: bool = Field(
        False, description="DANGER: listen beyond this machine without TLS; whoever is on the way hears everything."
    )
    tls_cert: Path | None = Field(None, description="PEM certificate chain for apps; reloaded when it changes.")
    tls_key: Path | None = Field(
        None, validate_default=True, description="PEM key of the certificate; reloaded when it changes."
    )
    listen: Addresses = Field(
        (), description="HOST:PORT for apps; may be repeated. Default: port 8080 of 127.0.0.1 and, where present, ::1."
    )
    status_listen: ListenAddress = Field(DEFAULT_STATUS_LISTEN, description="HOST:PORT for health and metrics.")
    allow_origin: Origins = Field(
        (),
        description="Origin whose pages may use the proxy: https://app.example, app://obsidian.md; may be repeated.",
    )
    allow_host: Hosts = Field(
        (), description="Further name that the Host header may have, at both listeners; may be repeated."
    )
    page: bool = Field(True, description="Serve the page at `/`, for a browser on this machine.")
    jobs: bool = Field(False, description="Take background jobs at /v1/jobs (extra `jobs`), kept sealed on this side.")
    jobs_accounts: bool = Field(
        False, description="Whoever submits a job shows the key of an account; see `sottovoce accounts`."
    )
    jobs_at_once: int = Field(4, ge=1, le=64, description="How many jobs this proxy works on at a time.")
    jobs_lease_s: float = Field(
        30.0, ge=1, description="How long after this proxy died another one takes over what it worked on."
    )
    jobs_max_file_bytes: int = Field(5 * 1024**3, ge=1, description="Longest recording of a job.")
    jobs_deposit_url: str = Field(
        "", pattern=r"^(?:https?://\S+)?$", description="Page where accounts are paid into, told with their balance."
    )
    jobs_keep_audio_h: float = Field(24.0, ge=0, description="How many hours a recording is kept after its job's end.")
    jobs_keep_results_days: float | None = Field(
        None, gt=0, description="How many days a result is kept. Default: until its job is deleted."
    )
    insecure_remote_engine: bool = Field(
        False, description="DEVELOPMENT ONLY: with an insecure policy, send to an engine that is not this machine."
    )
    live_shaping: Shaping = Field(
        Shaping.CONSTANT,
        description="What the times of live sessions' frames may show: strict (nothing), constant (a backlog, and a "
        "minute without audio), or insecure-off (when and how fast somebody speaks).",
    )
    receipts_dir: Path | None = Field(
        None,
        description="Where receipts of requests and live sessions with `Sottovoce-Receipt: 1` are kept; without it "
        "these are refused.",
    )
    exit_if_refused: bool = Field(False, description="End with exit code 10 when the engine is refused at the start.")
    ca_file: Path | None = Field(None, description="PEM roots for the engine's TLS, in place of the system's.")
    connect_timeout_s: float = Field(10.0, gt=0, description="Longest time to connect to the engine.")
    idle_timeout_s: float = Field(
        60.0,
        gt=0,
        description="Longest silence of an app, in sending its request or reading its answer, or of the engine, which "
        "sends a sign every 15 s.",
    )
    overall_timeout_s: float = Field(7_200.0, gt=0, description="Longest time from a request to the end of its answer.")

    otlp_traces: bool = Field(
        False, description="Push when each request was made and what it spent its time on, too: never what it was."
    )

    @field_validator("otlp_traces")
    @classmethod
    def _traces_go_somewhere(cls, wanted: bool, info: ValidationInfo) -> bool:
        if wanted and info.data.get("otlp_endpoint", ...) is None:
            raise ValueError("needs --otlp-endpoint")
        return wanted

    @field_validator("policy", "tls_cert", "tls_key", "ca_file")
    @classmethod
    def _there(cls, path: Path | None) -> Path | None:
        if path is not None and not path.exists():
            raise ValueError("there is no such file")
        return path

    @field_validator("tls_key")
    @classmethod
    def _a_pair(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if "tls_cert" in info.data and (info.data["tls_cert"] is None) != (key is None):
            raise ValueError("--tls-cert and --tls-key need each other")
        return key

    @field_validator("listen")
    @classmethod
    def _plaintext_and_api_key_stay_here(cls, listen: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        remote = ", ".join(address for address in listen if not Address.parse(address).is_loopback)
        faults = []
        # A setting that is at fault itself is not there, and nothing follows from it.
        if remote and info.data.get("tls_cert", ...) is None and info.data.get("allow_remote_clients") is False:
            faults.append(f"{remote}: beyond this machine only with --tls-cert, or --allow-remote-clients")
        if remote and info.data.get("api_key") is not None and info.data.get("token", ...) is None:
            faults.append(f"{remote}: whoever connects would use the API key; --token is needed")
        if faults:
            raise ValueError("; ".join(faults))
        return listen

    @property
    def engine_is_loopback(self) -> bool:
        """Whether every engine's URL names this machine; the address of the socket is checked once more.

        A relay sends wherever it likes.
        """
        return self.relay is None and all(is_this_machine(URL(url_of(engine)).host or "") for engine in self.engine)

    @property
    def is_tls(self) -> bool:
        return self.tls_cert is not None


def listen_addresses(settings: ProxySettings) -> tuple[Address, ...]:
    """Where apps are served: what was chosen, or every loopback address that this machine has."""
    if settings.listen:
        return tuple(Address.parse(text) for text in settings.listen)
    return tuple(Address(host, DEFAULT_PORT) for host in ("127.0.0.1", "::1") if _is_present(host))


def _is_present(host: str) -> bool:
    """Whether this machine has the address; a machine without IPv6 has no ::1."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError as exc:
        return exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True
