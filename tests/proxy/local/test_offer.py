from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.local.offer import Offer, is_websocket


def offer(*values: str) -> Offer:
    return Offer.of(CIMultiDictProxy(CIMultiDict(("Sec-WebSocket-Protocol", value) for value in values)))


def test_a_page_puts_key_token_and_version_among_its_subprotocols() -> None:
    assert offer("realtime, openai-insecure-api-key.sk-1 ,sottovoce-token.t-1", "openai-beta.realtime-v1") == Offer(
        ("sk-1",), "t-1", "realtime=v1"
    )


def test_a_key_that_is_offered_twice_is_one_and_another_one_is_kept_apart() -> None:
    key = "openai-insecure-api-key."
    assert offer(f"{key}a", f"{key}a").keys == ("a",)
    assert offer(f"{key}a, {key}b").keys == ("a", "b")


@pytest.mark.parametrize("values", [(), ("",), ("realtime",), ("openai-beta.realtime-v2, openai-organization.org",)])
def test_nothing_else_is_taken_for_anything(values: tuple[str, ...]) -> None:
    assert offer(*values) == Offer()


def test_secrets_do_not_show() -> None:
    assert "secret" not in repr(offer("openai-insecure-api-key.secret, sottovoce-token.secret"))


@pytest.mark.parametrize(
    ("value", "asked"), [("websocket", True), (" WebSocket ", True), ("h2c", False), (None, False)]
)
def test_who_asks_for_a_websocket(value: str | None, asked: bool) -> None:
    headers = CIMultiDict({"Upgrade": value} if value else {})
    assert is_websocket(CIMultiDictProxy(headers)) is asked
