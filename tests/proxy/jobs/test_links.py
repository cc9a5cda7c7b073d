"""Links as people copy them, and what is asked for."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.jobs.links import MAX_LINK_CHARS, RULES, DirectLink, LinkError, Refusal, checked, direct_link

ID = "1aBcDeFgHiJkLmNoPqRsTuVwXyZ_-0123"
GOOGLE = f"https://drive.usercontent.google.com/download?id={ID}&export=download&confirm=t"

REWRITTEN = {
    f"https://drive.google.com/file/d/{ID}/view?usp=sharing": GOOGLE,
    f"https://drive.google.com/file/d/{ID}": GOOGLE,
    f"http://docs.google.com/file/d/{ID}/edit": GOOGLE,
    f"https://drive.google.com/a/example.org/file/d/{ID}/view": GOOGLE,
    f"https://drive.google.com/file/u/1/d/{ID}/preview": GOOGLE,
    f"https://drive.google.com/open?id={ID}&usp=drive_copy": GOOGLE,
    f"https://drive.google.com/uc?export=download&id={ID}": GOOGLE,
    f"https://drive.usercontent.google.com/download?id={ID}": GOOGLE,
    f"https://drive.google.com/file/d/{ID}/view?resourcekey=0-AbC": f"{GOOGLE}&resourcekey=0-AbC",
    "https://www.dropbox.com/s/abc123/talk.mp3?dl=0": "https://www.dropbox.com/s/abc123/talk.mp3?dl=1",
    "https://www.dropbox.com/scl/fi/x1/talk.mp3?rlkey=k2&st=s3&dl=0": (
        "https://www.dropbox.com/scl/fi/x1/talk.mp3?rlkey=k2&st=s3&dl=1"
    ),
    "https://dropbox.com/e/scl/fi/x1/talk.mp3?rlkey=k2": "https://dropbox.com/e/scl/fi/x1/talk.mp3?rlkey=k2&dl=1",
    "https://acme.sharepoint.com/:v:/g/personal/a_b/EaBc?e=x4": (
        "https://acme.sharepoint.com/:v:/g/personal/a_b/EaBc?e=x4&download=1"
    ),
    "https://acme-my.sharepoint.com/:u:/s/Team/EaBc": "https://acme-my.sharepoint.com/:u:/s/Team/EaBc?download=1",
    "https://example.org/a%20talk.mp3?sig=a%2Bb#t=5": "https://example.org/a%20talk.mp3?sig=a%2Bb",
    "http://example.org:8080/talk": "http://example.org:8080/talk",
    "https://notdropbox.com/s/abc/talk.mp3": "https://notdropbox.com/s/abc/talk.mp3",
    "https://example.org/youtube.com": "https://example.org/youtube.com",
    "https://evil-sharepoint.com/:v:/g/a": "https://evil-sharepoint.com/:v:/g/a",
}

REFUSED = {
    "https://drive.google.com/drive/folders/1aBcDeFg": Refusal.FOLDER,
    "https://drive.google.com/drive/u/0/folders/1aBcDeFg": Refusal.FOLDER,
    "https://drive.google.com/drive/my-drive": Refusal.PAGE,
    "https://drive.google.com/open": Refusal.PAGE,
    "https://docs.google.com/document/d/1aBcDeFgHiJkLmNoPqRsTuVwXyZ0/edit": Refusal.PAGE,
    "https://www.dropbox.com/sh/abc/def": Refusal.FOLDER,
    "https://www.dropbox.com/scl/fo/abc/def?rlkey=x": Refusal.FOLDER,
    "https://www.dropbox.com/home": Refusal.PAGE,
    "https://acme.sharepoint.com/:f:/g/personal/a/EaBc": Refusal.FOLDER,
    "https://1drv.ms/u/s!AbC": Refusal.ONEDRIVE,
    "https://onedrive.live.com/?id=1&cid=2": Refusal.ONEDRIVE,
    "https://photos.onedrive.live.com/a": Refusal.ONEDRIVE,
    "https://www.youtube.com/watch?v=abc": Refusal.YOUTUBE,
    "https://m.youtube.com/watch?v=abc": Refusal.YOUTUBE,
    "https://youtu.be/abc": Refusal.YOUTUBE,
    "https://YOUTU.BE./abc": Refusal.YOUTUBE,
    "https://www.youtube-nocookie.com/embed/abc": Refusal.YOUTUBE,
}

NO_LINKS = [
    "",
    "talk.mp3",
    "//example.org/a",
    "ftp://example.org/a",
    "file:///etc/passwd",
    "data:audio/wav;base64,AAAA",
    "gopher://example.org/",
    "http://",
    "http:///a",
    "http://user@example.org/",
    "http://user:secret@example.org/",
    "http://:secret@example.org/",
    "http://example.org:99999/",
    "http://example.org:port/",
    "http://exa mple.org/",
    "http://example.org/\r\nHost: inside",
    "http://example.org\\@inside/",
    "http://[::1",
    "https://example.org/" + "a" * MAX_LINK_CHARS,
]


@pytest.mark.parametrize("link", REWRITTEN)
def test_a_link_leads_to_its_file(link: str) -> None:
    assert str(direct_link(link).url) == REWRITTEN[link]


def test_what_google_gives_comes_as_an_attachment() -> None:
    assert direct_link(f"https://drive.google.com/file/d/{ID}/view").attached
    assert not direct_link("https://example.org/a").attached


@pytest.mark.parametrize("link", REFUSED)
def test_what_is_no_file_is_refused_in_words_that_help(link: str) -> None:
    with pytest.raises(LinkError) as caught:
        direct_link(link)
    assert caught.value.refusal is REFUSED[link]
    assert caught.value.resolvable == (caught.value.refusal in (Refusal.ONEDRIVE, Refusal.YOUTUBE))
    assert link not in str(caught.value)


@pytest.mark.parametrize("text", NO_LINKS)
def test_what_is_no_link_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(LinkError) as caught:
        direct_link(text)
    assert str(caught.value) == Refusal.FORM


def test_a_redirect_may_be_longer_than_a_link() -> None:
    long = "https://example.org/" + "a" * MAX_LINK_CHARS
    assert str(checked(long, max_chars=8_190)) == long


@given(st.text(max_size=60))
def test_any_text_is_a_link_or_refused(text: str) -> None:
    for link in (text, f"https://{text}", f"https://drive.google.com/{text}"):
        try:
            assert isinstance(direct_link(link), DirectLink)
        except LinkError:
            continue


def test_every_rule_says_when_and_whence() -> None:
    for rule in RULES:
        assert date.fromisoformat(rule.on) > date(2026, 1, 1)
        assert rule.source
        assert rule.site
