"""Who may use the listener: decision tables of a pure function."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.errors import ErrorCode, ProxyError
from proxy.local.guard import Admission, Caller, Rules, admit, allowed_hosts, cors_headers

LOCAL = Caller(hosts=("localhost:8080",))
OPEN = Rules()
LISTED = Rules(origins=frozenset({"https://app.example", "null", "app://obsidian.md"}))


def refusal(caller: Caller, rules: Rules) -> ErrorCode:
    with pytest.raises(ProxyError) as caught:
        admit(caller, rules)
    return caught.value.code


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "LOCALHOST:1", "127.0.0.1:8080", "[::1]:8080", "[::1]"]
)
def test_hosts_of_this_machine_are_served(host: str) -> None:
    assert admit(Caller(hosts=(host,)), OPEN) == Admission()


@pytest.mark.parametrize(
    "hosts",
    [
        (),
        ("",),
        ("evil.example",),
        ("evil.example:8080",),
        ("localhost.evil.example",),
        ("localhost@evil.example",),
        ("localhost:80:80",),
        ("localhost:http",),
        ("[::1]evil.example",),
        ("[::1",),
        ("127.0.0.2",),
        ("0.0.0.0",),
        ("localhost", "localhost"),
    ],
)
def test_any_other_host_is_refused(hosts: tuple[str, ...]) -> None:
    assert refusal(Caller(hosts=hosts), OPEN) is ErrorCode.HOST_NOT_ALLOWED


def test_hosts_listened_at_and_allowed_are_served() -> None:
    rules = Rules(hosts=allowed_hosts(["10.0.0.5"], ["proxy.internal"]))
    for host in ("10.0.0.5:8080", "proxy.internal", "Proxy.Internal:443", "localhost"):
        assert admit(Caller(hosts=(host,)), rules) == Admission()
    assert refusal(Caller(hosts=("other.internal",)), rules) is ErrorCode.HOST_NOT_ALLOWED


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        (None, None),
        (None, "none"),
        (None, "same-origin"),
        ("http://localhost:8080", "same-origin"),
        ("http://localhost:8080", None),
        ("HTTP://LOCALHOST:8080", None),
    ],
)
def test_programs_and_the_listeners_own_pages_are_served(origin: str | None, site: str | None) -> None:
    caller = replace(LOCAL, origins=(origin,) if origin else (), sec_fetch_site=site)
    assert admit(caller, OPEN) == Admission()


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        ("http://localhost:3000", "same-site"),
        ("http://localhost:3000", None),
        ("https://localhost:8080", "same-site"),
        ("http://127.0.0.1:8080", "cross-site"),
        ("https://evil.example", "cross-site"),
        ("null", "cross-site"),
        ("null", None),
        (None, "cross-site"),
        (None, "same-site"),
        (None, "something-new"),
        ("http://localhost:8080", "cross-site"),
    ],
)
def test_pages_of_other_origins_are_refused(origin: str | None, site: str | None) -> None:
    caller = replace(LOCAL, origins=(origin,) if origin else (), sec_fetch_site=site)
    assert refusal(caller, OPEN) is ErrorCode.ORIGIN_NOT_ALLOWED


def test_two_origins_are_refused() -> None:
    caller = replace(LOCAL, origins=("https://app.example", "https://app.example"))
    assert refusal(caller, LISTED) is ErrorCode.ORIGIN_NOT_ALLOWED


@pytest.mark.parametrize(
    "origin", ["https://app.example", "https://APP.example", "null", "app://obsidian.md", "app://Obsidian.md"]
)
def test_a_listed_origin_is_served_and_named(origin: str) -> None:
    caller = replace(LOCAL, origins=(origin,), sec_fetch_site="cross-site")
    assert admit(caller, LISTED) == Admission(origin)


def test_a_listed_origin_does_not_open_the_door_for_another_host() -> None:
    caller = Caller(hosts=("evil.example",), origins=("https://app.example",))
    assert refusal(caller, LISTED) is ErrorCode.HOST_NOT_ALLOWED


def test_a_preflight_of_a_listed_origin_is_answered_without_a_token() -> None:
    caller = replace(LOCAL, origins=("https://app.example",), is_preflight=True)
    assert admit(caller, replace(LISTED, token="t0ken")) == Admission("https://app.example", preflight=True)


def test_a_preflight_of_any_other_origin_is_refused() -> None:
    caller = replace(LOCAL, origins=("https://evil.example",), is_preflight=True)
    assert refusal(caller, LISTED) is ErrorCode.ORIGIN_NOT_ALLOWED


def test_a_preflight_of_the_listeners_own_origin_is_no_way_around_the_token() -> None:
    caller = replace(LOCAL, origins=("http://localhost:8080",), is_preflight=True)
    assert refusal(caller, replace(OPEN, token="t0ken")) is ErrorCode.INVALID_LOCAL_TOKEN


WITH_KEY = Rules(token="t0ken", token_is_authorization=True)
WITHOUT_KEY = Rules(token="t0ken")


@pytest.mark.parametrize(
    ("rules", "caller"),
    [
        (WITH_KEY, replace(LOCAL, authorization="Bearer t0ken")),
        (WITH_KEY, replace(LOCAL, authorization="bearer t0ken")),
        (WITHOUT_KEY, replace(LOCAL, token="t0ken", authorization="Bearer of-the-engine")),
        (OPEN, replace(LOCAL, authorization="Bearer anything")),
    ],
)
def test_the_token_admits(rules: Rules, caller: Caller) -> None:
    assert admit(caller, rules) == Admission()


@pytest.mark.parametrize(
    ("rules", "caller"),
    [
        (WITH_KEY, LOCAL),
        (WITH_KEY, replace(LOCAL, authorization="t0ken")),
        (WITH_KEY, replace(LOCAL, authorization="Basic t0ken")),
        (WITH_KEY, replace(LOCAL, authorization="Bearer t0ke")),
        (WITH_KEY, replace(LOCAL, authorization="Bearer \udce4")),
        (WITH_KEY, replace(LOCAL, token="t0ken")),
        (WITHOUT_KEY, LOCAL),
        (WITHOUT_KEY, replace(LOCAL, authorization="Bearer t0ken")),
        (WITHOUT_KEY, replace(LOCAL, token="")),
    ],
)
def test_without_the_token_in_its_place_nobody_is_served(rules: Rules, caller: Caller) -> None:
    assert refusal(caller, rules) is ErrorCode.INVALID_LOCAL_TOKEN


def test_over_tls_the_own_origin_is_https() -> None:
    rules = Rules(scheme="https")
    assert admit(replace(LOCAL, origins=("https://localhost:8080",)), rules) == Admission()
    assert refusal(replace(LOCAL, origins=("http://localhost:8080",)), rules) is ErrorCode.ORIGIN_NOT_ALLOWED


def test_rules_do_not_show_the_token() -> None:
    assert "t0ken" not in repr(WITH_KEY)


def test_the_answer_to_a_foreign_origin_names_it_and_varies() -> None:
    headers = cors_headers("https://app.example", ["Content-Type"])
    assert headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Credentials" not in headers


def test_a_page_may_read_what_an_answer_carries_and_no_header_of_the_connection() -> None:
    names = ["Content-Type", "X-RateLimit-Remaining-Requests", "x-ratelimit-reset-requests", "OpenAI-Processing-Ms"]
    names += ["X-Request-Id", "Retry-After", "Date", "Server", "Set-Cookie"]
    exposed = cors_headers("app://obsidian.md", names)["Access-Control-Expose-Headers"]
    assert exposed.split(", ") == [
        "content-type", "openai-processing-ms", "retry-after", "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests", "x-request-id",
    ]  # fmt: skip
