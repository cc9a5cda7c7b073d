"""Whose key is this? The file of API keys as frozen data, and the look-up by digest.

::

    version = 1

    [[keys]]
    name = "newsroom"                     # for people; in logs only where requests are logged
    sha256 = "<64 hex>"                   # of the key's ASCII bytes; the key itself is stored nowhere
    requests_per_minute = 60              # this line and those below are optional: no line, no limit
    concurrent_requests = 4               # no line: what the engine gives any key
    audio_seconds_per_day = 36000
    live_sessions = 2                     # no line: what the engine gives any key
    expires = 2030-01-01T00:00:00Z        # from then on the key is refused; a day alone begins at midnight UTC

A plain SHA-256 is enough, for a key is 32 random bytes: there is no dictionary to run through. The version makes a file
that was cut while it was written a broken one, and not one without keys.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, SecretStr, TypeAdapter

from core.program.settings import ConfigFileError, parse_toml
from core.program.validation import STRICT, Sha256Hex, VersionOne, validate
from engine.access.limits import Limits
from engine.errors import KeyFileError

PREFIX = "sk-sv-"
SECRET_BYTES = 32
MAX_FILE_BYTES = 1024 * 1024

_HEADING = "# API keys of a Sottovoce engine. `sottovoce-engine keys` rewrites this file and keeps no comments.\n"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_LOOKS_SECRET = re.compile(r"sk-[A-Za-z0-9_-]*")

# RFC 6750 section 2.1. The scheme's name knows no case (RFC 9110 section 11.1); a longer key than this is nobody's.
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([!-~]{1,256})")


def key_name(text: str) -> str:
    """`text`, if a key may be called that. Raises ValueError."""
    if not _NAME.fullmatch(text):
        raise ValueError("a name is up to 64 letters, digits and any of ._@-, and starts with a letter or digit")
    if text.startswith("sk-"):
        raise ValueError("a name must not look like a key")  # it would be shown, and logged
    return text


def parse_expiry(text: str) -> datetime:
    """A moment as a person types it: a day, which means its first second in UTC, or a time with its offset.

    Raises ValueError.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("a day such as 2030-01-31, or a time such as 2030-01-31T12:00:00Z") from None
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        return moment.replace(tzinfo=UTC)
    raise ValueError("a time needs its offset from UTC, such as the Z of 2030-01-31T12:00:00Z")


def _expiry(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError("must be a time")  # noqa: TRY004 - pydantic turns ValueError into a fault
    return parse_expiry(value)


KeyName = Annotated[str, AfterValidator(key_name)]
Expiry = Annotated[datetime, PlainValidator(_expiry)]
Limit = Annotated[int, Field(ge=1, le=1_000_000_000)]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One entry of the file."""

    __pydantic_config__ = STRICT

    name: KeyName
    sha256: Sha256Hex = field(repr=False)
    requests_per_minute: Limit | None = None
    concurrent_requests: Limit | None = None
    audio_seconds_per_day: Limit | None = None
    expires: Expiry | None = None
    live_sessions: Limit | None = None

    @property
    def limits(self) -> Limits:
        return Limits(
            self.requests_per_minute, self.concurrent_requests, self.audio_seconds_per_day, self.live_sessions
        )

    def is_expired(self, now: float) -> bool:
        """Whether it is refused at `now`, Unix seconds."""
        return self.expires is not None and self.expires.timestamp() <= now


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """All keys of an engine; without any, nobody is let in."""

    __pydantic_config__ = STRICT

    version: VersionOne = 1
    keys: tuple[ApiKey, ...] = ()

    def find(self, authorization: str | None, now: float) -> ApiKey | None:
        """The live key that an Authorization header shows. now: Unix seconds.

        Every entry is compared, and each in constant time: how long it takes tells nothing of the digests.
        """
        return self.held_by(digest(bearer(authorization)), now)

    def held_by(self, presented: str, now: float) -> ApiKey | None:
        """The live key of that digest."""
        found = [key for key in self.keys if hmac.compare_digest(key.sha256, presented)]
        return found[0] if found and not found[0].is_expired(now) else None

    def named(self, name: str) -> ApiKey | None:
        return next((key for key in self.keys if key.name == name), None)

    def adding(self, key: ApiKey) -> ApiKeys:
        """These keys and one more. Raises KeyFileError when its name is taken."""
        if self.named(key.name):
            raise KeyFileError("a key of this name exists; revoke it first")
        return ApiKeys(keys=(*self.keys, key))

    def without(self, name: str) -> ApiKeys:
        """These keys but for one. Raises KeyFileError when there is none of that name."""
        if not self.named(name):
            raise KeyFileError("there is no key of this name")
        return ApiKeys(keys=tuple(key for key in self.keys if key.name != name))


def bearer(authorization: str | None) -> str:
    """The key in an Authorization header; of any other header nothing, whose digest no entry can have."""
    shown = _BEARER.fullmatch(authorization or "")
    return shown[1] if shown else ""


def digest(secret: str) -> str:
    """What is stored of a key: SHA-256, hexadecimal."""
    return hashlib.sha256(secret.encode("ascii")).hexdigest()


def secret_of(random: bytes) -> SecretStr:
    """The key made of `SECRET_BYTES` random bytes, in base64url without padding (RFC 4648 section 5)."""
    if len(random) != SECRET_BYTES:
        raise ValueError(f"a key is made of {SECRET_BYTES} bytes")
    return SecretStr(PREFIX + base64.urlsafe_b64encode(random).rstrip(b"=").decode("ascii"))


# --- the file

_FILE = TypeAdapter(ApiKeys)
_DIGEST_OF_NOTHING = hashlib.sha256(b"").hexdigest()


def parse_keys(data: bytes) -> ApiKeys:
    """Keys from the bytes of their file. Raises KeyFileError naming every fault by its place, and no value."""
    if len(data) > MAX_FILE_BYTES:
        raise KeyFileError(f"longer than {MAX_FILE_BYTES} bytes")
    try:
        raw = parse_toml(data)
    except ConfigFileError as exc:
        raise KeyFileError(str(exc)) from None
    faults = [] if "version" in raw else ["version: is needed"]
    faults += _clashes(raw)
    try:
        keys = validate(_FILE, _with_times_as_text(raw))
    except ValueError as exc:
        faults.append(str(exc))
    if faults:
        # The name of an unknown member is told, and might be a key that somebody put in the wrong place.
        raise KeyFileError(_LOOKS_SECRET.sub("(a key)", "; ".join(faults)))
    return keys


def encode_keys(keys: ApiKeys) -> bytes:
    """The bytes of a file that `parse_keys` reads as `keys`."""
    tables = ["\n[[keys]]\n" + "".join(f"{line}\n" for line in _lines(key)) for key in keys.keys]
    return (_HEADING + f"version = {keys.version}\n" + "".join(tables)).encode("ascii")


def _lines(key: ApiKey) -> Iterator[str]:
    yield f'name = "{key.name}"'  # neither holds a character that TOML would want escaped
    yield f'sha256 = "{key.sha256}"'
    for name in ("requests_per_minute", "concurrent_requests", "audio_seconds_per_day", "live_sessions"):
        if (limit := getattr(key, name)) is not None:
            yield f"{name} = {limit}"
    if key.expires is not None:
        yield f"expires = {key.expires.isoformat()}"


def _entries(raw: dict[str, Any]) -> list[dict[str, Any]]:
    entries = raw.get("keys")
    return [entry if isinstance(entry, dict) else {} for entry in entries] if isinstance(entries, list) else []


def _clashes(raw: dict[str, Any]) -> Iterator[str]:
    """Faults between entries, looked for in what was written so that they are told with all others."""
    for member in ("name", "sha256"):
        first: dict[str, int] = {}
        for number, entry in enumerate(_entries(raw)):
            value = entry.get(member)
            if not isinstance(value, str):
                continue
            if value in first:
                yield f"keys.{number}.{member}: the same as keys.{first[value]}.{member}"
            first.setdefault(value, number)
            if member == "sha256" and value == _DIGEST_OF_NOTHING:
                yield f"keys.{number}.sha256: of no key at all"


def _with_times_as_text(raw: dict[str, Any]) -> dict[str, Any]:
    """`raw` with TOML's dates and times in JSON's form, where an entry may have one."""
    if not _entries(raw):
        return raw
    return raw | {"keys": [_with_time_as_text(entry) for entry in raw["keys"]]}


def _with_time_as_text(entry: Any) -> Any:
    if isinstance(entry, dict) and isinstance(entry.get("expires"), date | time):
        return entry | {"expires": entry["expires"].isoformat()}
    return entry
