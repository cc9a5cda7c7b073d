"""Which way out: a table."""

from __future__ import annotations

import pytest

from proxy.egress import proxy_for

HTTPS = {"https_proxy": "http://proxy.example:3128"}


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        ("https://engine.example", {}, None),
        ("https://engine.example", HTTPS, "http://proxy.example:3128"),
        ("https://engine.example", {"HTTPS_PROXY": "proxy.example:3128"}, "http://proxy.example:3128"),
        ("https://engine.example", {"http_proxy": "http://proxy.example"}, None),
        ("http://engine.example", {"HTTP_PROXY": "http://proxy.example"}, "http://proxy.example"),
        ("https://engine.example", {"https_proxy": ""}, None),
        ("https://localhost", HTTPS, None),
        ("https://a.localhost", HTTPS, None),
        ("https://127.0.0.1", HTTPS, None),
        ("https://[::1]", HTTPS, None),
        ("https://engine.example", HTTPS | {"no_proxy": "*"}, None),
        ("https://engine.example", HTTPS | {"NO_PROXY": "other, engine.example"}, None),
        ("https://engine.example", HTTPS | {"no_proxy": ".example"}, None),
        ("https://engine.example", HTTPS | {"no_proxy": "*.example"}, None),
        ("https://engine.example", HTTPS | {"no_proxy": "example"}, None),
        ("https://engine.example", HTTPS | {"no_proxy": "ENGINE.EXAMPLE:443"}, None),
        ("https://engine.example", HTTPS | {"no_proxy": "engine.example:80"}, "http://proxy.example:3128"),
        ("https://engine.example", HTTPS | {"no_proxy": "ngine.example"}, "http://proxy.example:3128"),
        ("https://10.1.2.3", HTTPS | {"no_proxy": "10.0.0.0/8"}, None),
        ("https://11.1.2.3", HTTPS | {"no_proxy": "10.0.0.0/8"}, "http://proxy.example:3128"),
        ("https://10.1.2.3", HTTPS | {"no_proxy": "10.1.2.3"}, None),
        ("https://[2001:db8::1]", HTTPS | {"no_proxy": "2001:db8::/32"}, None),
    ],
)
def test_the_way_out(url: str, environ: dict[str, str], expected: str | None) -> None:
    found = proxy_for(url, environ)
    assert (found or "").rstrip("/") == (expected or "")


@pytest.mark.parametrize("proxy", ["socks5://proxy.example", "http://"])
def test_what_is_no_http_proxy_is_refused_and_not_quoted(proxy: str) -> None:
    with pytest.raises(ValueError, match="HTTPS_PROXY is not") as caught:
        proxy_for("https://engine.example", {"https_proxy": proxy})
    assert "proxy.example" not in str(caught.value)
