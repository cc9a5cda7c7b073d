"""What can the user of a proxy choose? One frozen value, from flags, variables or a file.

Danger says so by name: `allow_remote_clients` and `insecure_remote_engine` are the only ways past the two rules that
keep plaintext on this machine and development evidence off the network.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode
from yarl import URL

from attestation.http import Address
from attestation.program import ProgramSettings, SecretFile

DEFAULT_PORT = 8080
DEFAULT_STATUS_LISTEN = "127.0.0.1:8081"


def _split(value: object) -> object:
    """One variable holds a list with commas; flags and files hold lists."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _address(text: str) -> str:
    Address.parse(text)
    return text


def _origin(text: str) -> str:
    if text == "null":
        return text
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host or str(url.origin()) != text.lower():
        raise ValueError("an origin is SCHEME://HOST[:PORT], or null")
    return text.lower()


def _host(text: str) -> str:
    """A host as it stands in a Host header, without its port."""
    host = text.lower().removeprefix("[").removesuffix("]")
    if not host or set(host) & set("/@?# \\"):
        raise ValueError("a host is a name or an address, without a port")
    return host


def _engine_url(text: str) -> str:
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host or url.user is not None or url.query_string or url.fragment:
        raise ValueError("an engine is http(s)://HOST[:PORT][/PATH]")
    return text.rstrip("/")


EngineUrl = Annotated[str, AfterValidator(_engine_url)]
ListenAddress = Annotated[str, AfterValidator(_address)]
Addresses = Annotated[tuple[Annotated[str, AfterValidator(_address)], ...], NoDecode, BeforeValidator(_split)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_split)]
Texts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Hosts = Annotated[tuple[Annotated[str, AfterValidator(_host)], ...], NoDecode, BeforeValidator(_split)]


class ProxySettings(ProgramSettings):
    """Settings of `sottovoce proxy`."""

    engine: EngineUrl = Field(description="URL of the engine; http is enough, since every request is sealed.")
    policy: Path = Field(description="TOML file of what the engine must prove.")
    policy_signer: Texts = Field(
        (), description="ed25519:HEX that must have signed the policy; may be repeated, and one of them is enough."
    )
    min_policy_version: int | None = Field(None, ge=1, description="Refuse older versions of a signed policy.")
    policy_sigstore_root: Path | None = Field(None, description="trusted_root.json of a Sigstore instance.")
    policy_sigstore_identity: str | None = Field(None, description="Who must have made POLICY.sigstore.json.")
    policy_sigstore_issuer: str | None = Field(None, description="Who must have vouched for that identity.")
    state_dir: Path | None = Field(
        None,
        description="Where policy versions and the log of identities are kept. Default: the user's data directory.",
    )
    collateral_dir: Path | None = Field(
        None, description="Where collateral is cached. Default: the user's cache directory."
    )
    offline_collateral: bool = Field(
        False, description="Ask no vendor: collateral comes from the engine and the cache only."
    )
    api_key: SecretFile | None = Field(
        None, description="@FILE with the engine's API key; replaces the Authorization of the apps."
    )
    token: SecretFile | None = Field(None, description="@FILE with a token that apps must show to this proxy.")
    listen: Addresses = Field(
        (), description="HOST:PORT for apps; may be repeated. Default: port 8080 of 127.0.0.1 and, where present, ::1."
    )
    status_listen: ListenAddress = Field(DEFAULT_STATUS_LISTEN, description="HOST:PORT for health and metrics.")
    allow_origin: Origins = Field((), description="Web origin whose pages may use the proxy; may be repeated.")
    allow_host: Hosts = Field((), description="Further name that the Host header may have; may be repeated.")
    allow_remote_clients: bool = Field(
        False, description="DANGER: listen beyond this machine without TLS; whoever is on the way hears everything."
    )
    insecure_remote_engine: bool = Field(
        False, description="DEVELOPMENT ONLY: with an insecure policy, send to an engine that is not this machine."
    )
    exit_if_refused: bool = Field(False, description="End with exit code 10 when the engine is refused at the start.")
    tls_cert: Path | None = Field(None, description="PEM certificate chain for apps; reloaded when it changes.")
    tls_key: Path | None = Field(None, description="PEM key of the certificate; reloaded when it changes.")
    ca_file: Path | None = Field(None, description="PEM roots for the engine's TLS, in place of the system's.")
    connect_timeout_s: float = Field(10.0, gt=0, description="Longest time to connect to the engine.")
    idle_timeout_s: float = Field(
        60.0,
        gt=0,
        description="Longest silence of an app, in sending its request or reading its answer, or of the engine, which "
        "sends a sign every 15 s.",
    )
    overall_timeout_s: float = Field(7_200.0, gt=0, description="Longest time from a request to the end of its answer.")

    @model_validator(mode="after")
    def _consistent(self) -> ProxySettings:
        if faults := tuple(self._faults()):
            raise ValueError("; ".join(faults))
        return self

    def _faults(self) -> Iterator[str]:
        if (self.tls_cert is None) != (self.tls_key is None):
            yield "--tls-cert and --tls-key need each other"
        for flag, path in (("tls-cert", self.tls_cert), ("tls-key", self.tls_key), ("ca-file", self.ca_file)):
            if path is not None and not path.is_file():
                yield f"--{flag}: there is no such file"
        if remote := [address for address in self.listen if not Address.parse(address).is_loopback]:
            yield from self._remote_faults(", ".join(remote))

    def _remote_faults(self, remote: str) -> Iterator[str]:
        if self.tls_cert is None and not self.allow_remote_clients:
            yield f"--listen {remote}: beyond this machine only with --tls-cert, or --allow-remote-clients"
        if self.api_key is not None and self.token is None:
            yield f"--listen {remote}: whoever connects would use the API key; --token is needed"

    @property
    def engine_is_loopback(self) -> bool:
        """Whether the engine's URL names this machine; the address of the socket is checked once more."""
        host = URL(self.engine).host or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")

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
