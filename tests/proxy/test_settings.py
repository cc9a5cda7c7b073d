"""Every way to say something dangerous says so, and every fault of a configuration is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import ValidationError

from core.program.http.listener import Address
from core.program.settings import load_settings
from proxy import settings as module
from proxy.settings import ProxySettings, listen_addresses
from tests.places import ROOT

POLICY = ROOT / "examples" / "insecure-policy.toml"

SecretFile = Callable[[str], str]


def settings(**changes: Any) -> ProxySettings:
    return ProxySettings.model_validate({"engine": "http://127.0.0.1:8800", "policy": POLICY} | changes)


def faults(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        settings(**changes)
    return "; ".join(error["msg"] for error in caught.value.errors(include_input=False))


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in ProxySettings.model_fields.values())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "engine",
        "ftp://engine",
        "http://",
        "http://user:pass@engine",
        "http://engine?x=1",
        "http://engine#x",
        "http://engine:8800?",
        "http://engine#",
        "http://engine:99999",
        "http://engine\\x",
    ],
)
def test_an_engine_is_a_plain_url(url: str) -> None:
    assert "engine" in faults(engine=url)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.8.8.8:1", True),
        ("http://[::1]:1", True),
        ("http://localhost", True),
        ("http://engine.localhost", True),
        ("http://localhost.evil.example", False),
        ("http://10.0.0.1", False),
        ("https://engine.example", False),
        ("http://0.0.0.0", False),
    ],
)
def test_only_names_and_addresses_of_this_machine_are_loopback(url: str, loopback: bool) -> None:
    assert settings(engine=url).engine_is_loopback is loopback
    assert settings(engine=("http://localhost", url)).engine_is_loopback is loopback


def test_apps_are_served_on_every_loopback_address_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_present", lambda host: host == "127.0.0.1")
    assert listen_addresses(settings()) == (Address("127.0.0.1", 8080),)
    monkeypatch.setattr(module, "_is_present", lambda _: True)
    assert listen_addresses(settings()) == (Address("127.0.0.1", 8080), Address("::1", 8080))
    assert listen_addresses(settings(listen=("[::1]:9",))) == (Address("::1", 9),)


def test_an_address_of_this_machine_is_present_and_another_is_not() -> None:
    assert module._is_present("127.0.0.1")
    assert not module._is_present("192.0.2.1")


def test_beyond_this_machine_only_with_tls_or_said_out_loud(tmp_path: Path) -> None:
    pem = tmp_path / "x.pem"
    pem.touch()
    assert "--tls-cert" in faults(listen=("0.0.0.0:8080",))
    settings(listen=("0.0.0.0:8080",), allow_remote_clients=True)
    settings(listen=("0.0.0.0:8080",), tls_cert=pem, tls_key=pem)


def test_beyond_this_machine_an_api_key_needs_a_token(secret_file: SecretFile) -> None:
    remote = {"listen": ("0.0.0.0:8080",), "allow_remote_clients": True, "api_key": secret_file("k3y")}
    assert "--token" in faults(**remote)
    settings(**remote, token=secret_file("t0ken"))
    settings(api_key=secret_file("k3y"))


def test_all_faults_are_told_at_once_and_each_by_its_flag(tmp_path: Path, secret_file: SecretFile) -> None:
    pem = tmp_path / "x.pem"
    pem.touch()
    with pytest.raises(typer.BadParameter) as caught:
        load_settings(
            ProxySettings,
            {
                "engine": "http://engine:8800?",
                "policy": str(tmp_path / "none.toml"),
                "api_key": secret_file("k3y"),
                "listen": ["0.0.0.0:8080", "[2001:db8::1]:8080"],
                "allow_origin": ["https://app.example/x"],
                "tls_key": str(pem),
                "ca_file": str(tmp_path / "none.pem"),
                "idle_timeout_s": "0",
            },
        )
    lines = caught.value.message.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "--policy", "--engine", "--tls-key", "--listen", "--allow-origin", "--ca-file", "--idle-timeout-s",
    ]  # fmt: skip
    assert "--allow-remote-clients" in lines[3]
    assert "--token is needed" in lines[3]
    assert "0.0.0.0:8080, [2001:db8::1]:8080" in lines[3]
    assert "settings" not in caught.value.message


def test_a_certificate_and_its_key_need_each_other(tmp_path: Path) -> None:
    pem = tmp_path / "x.pem"
    pem.touch()
    for given in ({"tls_cert": pem}, {"tls_key": pem}):
        assert "--tls-cert and --tls-key need each other" in faults(**given)
    assert settings(tls_cert=pem, tls_key=pem).is_tls


@pytest.mark.parametrize("name", ["policy", "tls_cert", "tls_key", "ca_file"])
def test_a_file_must_be_there(tmp_path: Path, name: str) -> None:
    assert "there is no such file" in faults(**{name: tmp_path / "none"})


@pytest.mark.parametrize(
    "origin",
    ["", "*", "app.example", "https://app.example/", "https://app.example/x", "https://app.example:443", "http://a:80",
     "https://user@app.example", "https://app.example?", "https://app.example#", "https://*.example", "https://a b",
     "https://a:b", "https://[::1", "https://p\u00e4ge.example", "file://", "app://", "://x", "1app://x", "https:x"],
)  # fmt: skip
def test_an_origin_is_exact(origin: str) -> None:
    assert "origin" in faults(allow_origin=(origin,))


@pytest.mark.parametrize(
    "origin",
    ["https://app.example", "http://localhost:3000", "https://[2001:db8::1]:8443", "null", "app://obsidian.md",
     "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb", "moz-extension://0a1b-2c", "capacitor://localhost",
     "tauri://localhost", "vscode-webview://0abcdef", "ionic://localhost", "ftp://x"],
)  # fmt: skip
def test_any_origin_that_a_browser_serialises_may_be_listed(origin: str) -> None:
    assert settings(allow_origin=(origin, origin.upper() if origin != "null" else origin)).allow_origin == (origin,) * 2


@pytest.mark.parametrize("host", ["", "http://x", "a/b", "user@x"])
def test_a_host_is_a_name(host: str) -> None:
    assert "host" in faults(allow_host=(host,))


def test_lists_can_be_said_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOTTOVOCE_ALLOW_ORIGIN", "https://a.example, http://LOCALHOST:3000")
    monkeypatch.setenv("SOTTOVOCE_LISTEN", "127.0.0.1:1,[::1]:1")
    monkeypatch.setenv("SOTTOVOCE_ENGINE", "http://127.0.0.1:8800/,https://engine.example")
    monkeypatch.setenv("SOTTOVOCE_POLICY", str(POLICY))
    given = load_settings(ProxySettings, {})
    assert given.allow_origin == ("https://a.example", "http://localhost:3000")
    assert given.listen == ("127.0.0.1:1", "[::1]:1")
    assert given.engine == ("http://127.0.0.1:8800", "https://engine.example")


def test_a_secret_is_a_file_and_never_shown(secret_file: SecretFile) -> None:
    assert "@FILE" in faults(api_key="in-place")
    assert "k3y" not in repr(settings(api_key=secret_file("k3y")))
