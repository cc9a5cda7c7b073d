"""Where is the recording behind a link that somebody copied out of a browser? A table of sites, each row dated.

Sites show a page where a program wants the file. What is rewritten here is what their own pages do; the rules were
taken from well-kept programs that use them, on the date that each row has, and hold only while a site keeps its forms.
There is no guessing: a link that no row knows is asked for as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from yarl import URL

from proxy.jobs.errors import JobsError

MAX_LINK_CHARS: Final = 2_048
MAX_REDIRECT_CHARS: Final = 8_190
"""Sites sign what they redirect to, at length."""


class Refusal(StrEnum):
    """Why a link is not fetched, as a sentence for whoever sent it."""

    FORM = "A link must be an http or https URL of up to 2048 characters, without a user name."
    OPEN = "A webhook must be https: this proxy calls no other on the internet."
    FOLDER = "This is a link to a folder. Share the file itself."
    PAGE = "This link shows a page, not a file. Share the file itself."
    ONEDRIVE = (
        "Links of a personal OneDrive are not fetched: the site gives its files to its own pages alone. Download the "
        "file and upload it, or share it from SharePoint, Google Drive or Dropbox."
    )
    YOUTUBE = "Links of YouTube are not fetched. Download the recording, if you may, and upload the file."


class LinkError(JobsError):
    """resolvable: a command that the operator named may know better."""

    def __init__(self, refusal: Refusal, *, resolvable: bool = False) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal
        self.resolvable = resolvable


@dataclass(frozen=True, slots=True)
class DirectLink:
    """What is asked for. attached: the file comes as an attachment; anything else is a page about it."""

    url: URL
    attached: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """How a site's links are read: the first rule that fits a link decides. on, source: when it was taken, and whence.

    host: all of it; path: its beginning. direct: the link to the file, from the link, what was found in its path, and
    its query; or why there is none.
    """

    site: str
    host: re.Pattern[str]
    path: re.Pattern[str]
    direct: Callable[[URL, Mapping[str, str]], DirectLink] | Refusal
    on: str
    source: str


_ID: Final = r"(?P<id>[A-Za-z0-9_-]{25,})"


def _google(url: URL, found: Mapping[str, str]) -> DirectLink:
    query = {"id": found["id"], "export": "download", "confirm": "t"}
    if key := url.query.get("resourcekey"):
        query["resourcekey"] = key
    return DirectLink(URL("https://drive.usercontent.google.com/download").with_query(query), attached=True)


def _google_by_query(url: URL, _: Mapping[str, str]) -> DirectLink:
    if re.fullmatch(_ID, name := url.query.get("id", "")) is None:
        raise LinkError(Refusal.PAGE)
    return _google(url, {"id": name})


def _dropbox(url: URL, _: Mapping[str, str]) -> DirectLink:
    kept = [(name, value) for name, value in url.query.items() if name in ("rlkey", "st")]
    return DirectLink(url.with_scheme("https").with_query([*kept, ("dl", "1")]))


def _sharepoint(url: URL, _: Mapping[str, str]) -> DirectLink:
    kept = [(name, value) for name, value in url.query.items() if name == "e"]
    return DirectLink(url.with_scheme("https").with_query([*kept, ("download", "1")]))


def _rule(
    site: str, host: str, path: str, direct: Callable[[URL, Mapping[str, str]], DirectLink] | Refusal, source: str
) -> Rule:
    return Rule(site, re.compile(host), re.compile(path), direct, "2026-11-30", source)


_GOOGLE: Final = r"(?:drive|docs)\.google\.com"
_GOOGLE_SOURCE: Final = "yt-dlp, extractor/googledrive.py; gdown, download.py"
_DROPBOX: Final = r"(?:www\.)?dropbox\.com"
_DROPBOX_SOURCE: Final = "yt-dlp, extractor/dropbox.py; Dropbox, `Force a file or folder to download`"
_SHAREPOINT: Final = r"[a-z0-9-]+\.sharepoint\.com"
_SHAREPOINT_SOURCE: Final = "rclone, issues 5417 and 2626"
_ONEDRIVE_SOURCE: Final = "rclone, issue 7898: anonymous downloads ended in 2024"

RULES: Final = (
    _rule("Google Drive", _GOOGLE, rf"(?:/a/[^/]+)?/file/(?:u/\d+/)?d/{_ID}(?:/|$)", _google, _GOOGLE_SOURCE),
    _rule("Google Drive", _GOOGLE, r"/(?:open|uc)$", _google_by_query, _GOOGLE_SOURCE),
    _rule("Google Drive", r"drive\.usercontent\.google\.com", r"/download$", _google_by_query, _GOOGLE_SOURCE),
    _rule("Google Drive", _GOOGLE, r"/drive/(?:u/\d+/)?folders/", Refusal.FOLDER, _GOOGLE_SOURCE),
    _rule("Google Drive", _GOOGLE, r"/", Refusal.PAGE, _GOOGLE_SOURCE),
    _rule("Dropbox", _DROPBOX, r"/(?:s|e/scl/fi|scl/fi)/[^/]+/", _dropbox, _DROPBOX_SOURCE),
    _rule("Dropbox", _DROPBOX, r"/(?:sh|scl/fo)/", Refusal.FOLDER, _DROPBOX_SOURCE),
    _rule("Dropbox", _DROPBOX, r"/", Refusal.PAGE, _DROPBOX_SOURCE),
    _rule("SharePoint", _SHAREPOINT, r"/:f:/", Refusal.FOLDER, _SHAREPOINT_SOURCE),
    _rule("SharePoint", _SHAREPOINT, r"/:[a-z]:/", _sharepoint, _SHAREPOINT_SOURCE),
    _rule(
        "OneDrive",
        r"1drv\.ms|(?:[a-z0-9-]+\.)*onedrive\.live\.com|onedrive\.com",
        r"",
        Refusal.ONEDRIVE,
        _ONEDRIVE_SOURCE,
    ),
    _rule(
        "YouTube",
        r"(?:[a-z0-9-]+\.)*youtube(?:-nocookie)?\.com|youtu\.be",
        r"",
        Refusal.YOUTUBE,
        "its terms of service",
    ),
)


def direct_link(text: str) -> DirectLink:
    """What to ask for when somebody names this link. Raises LinkError."""
    url = checked(text)
    host = (url.host or "").lower().rstrip(".")
    for rule in RULES:
        if rule.host.fullmatch(host) and (found := rule.path.match(url.path)):
            if isinstance(rule.direct, Refusal):
                raise LinkError(rule.direct, resolvable=rule.direct in (Refusal.ONEDRIVE, Refusal.YOUTUBE))
            return rule.direct(url, found.groupdict())
    return DirectLink(url)


def checked(text: str, *, max_chars: int = MAX_LINK_CHARS) -> URL:
    """A link that may be asked for, without its fragment. Raises LinkError."""
    if len(text) > max_chars or not text.isprintable() or " " in text or "\\" in text:
        raise LinkError(Refusal.FORM)
    try:
        url = URL(text)
        _ = url.port  # raises when it is no port
    except ValueError as exc:
        raise LinkError(Refusal.FORM) from exc
    if url.scheme not in ("http", "https") or not url.host or url.user is not None or url.password is not None:
        raise LinkError(Refusal.FORM)
    return url.with_fragment(None)


def check_receiver(text: str, *, plain: bool) -> None:
    """Whether somebody there may be told of a job. plain: http may be meant. Raises LinkError."""
    if checked(text).scheme == "http" and not plain:
        raise LinkError(Refusal.OPEN)
