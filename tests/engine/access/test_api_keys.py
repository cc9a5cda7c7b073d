from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.access.api_keys import (
    MAX_FILE_BYTES,
    PREFIX,
    ApiKey,
    ApiKeys,
    digest,
    encode_keys,
    key_name,
    parse_expiry,
    parse_keys,
    secret_of,
)
from engine.access.limits import Limits
from engine.errors import KeyFileError

SECRET = secret_of(b"\x5a" * 32).get_secret_value()
OTHER = secret_of(b"\xa5" * 32).get_secret_value()
NOW = datetime(2030, 1, 1, tzinfo=UTC).timestamp()
FULL = ApiKey("newsroom", digest(SECRET), 60, 4, 36_000, datetime(2031, 1, 1, tzinfo=UTC))


def entry(**members: Any) -> str:
    """An entry of a file; members in TOML's own words."""
    given = {"name": '"a"', "sha256": f'"{"0" * 64}"'} | members
    return "[[keys]]\n" + "".join(f"{name} = {value}\n" for name, value in given.items() if value is not None)


def faults(*tables: str, version: str = "version = 1\n") -> str:
    with pytest.raises(KeyFileError) as refused:
        parse_keys((version + "".join(tables)).encode())
    return str(refused.value)


# --- secrets and names


def test_a_key_is_32_bytes_in_base64url_after_a_prefix() -> None:
    assert SECRET == PREFIX + "WlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlo"
    assert "/" not in secret_of(b"\xff" * 32).get_secret_value()


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_not_made(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        secret_of(bytes(length))


def test_neither_a_key_nor_its_digest_is_shown_by_accident() -> None:
    assert SECRET not in repr(secret_of(b"\x5a" * 32))
    assert digest(SECRET) not in repr(ApiKeys(keys=(FULL,)))


def test_what_is_stored_is_the_sha256_of_the_whole_key() -> None:
    assert digest(SECRET) == hashlib.sha256(SECRET.encode()).hexdigest()


@pytest.mark.parametrize("name", ["a", "News-Room_2.de", "a@b.example", "9" * 64])
def test_a_name_may_be_any_plain_word(name: str) -> None:
    assert key_name(name) == name


@pytest.mark.parametrize("name", ["", " a", "a b", "-a", "ä", 'a"', "a\n", "a" * 65, SECRET, "sk-x", "a\\"])
def test_a_name_that_could_not_be_shown_or_typed_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="a name"):
        key_name(name)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2030-01-31", datetime(2030, 1, 31, tzinfo=UTC)),
        ("2030-01-31T12:00:00Z", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        ("2030-01-31T12:00:00+02:00", datetime(2030, 1, 31, 10, tzinfo=UTC)),
        ("2030-01-31 12:00+05:53:28", datetime(2030, 1, 31, 6, 6, 32, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_day_or_a_time_with_its_offset(text: str, moment: datetime) -> None:
    assert parse_expiry(text) == moment


@pytest.mark.parametrize(
    "text", ["", "soon", "2030", "2030-02-30", "2030-01-31T12:00:00", "1893456000", "0001-01-01T00:00:00+10:00"]
)
def test_any_other_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a day such as|a time needs"):
        parse_expiry(text)


# --- looking up


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_a_key_is_found_by_what_its_holder_shows(scheme: str) -> None:
    keys = ApiKeys(keys=(ApiKey("other", digest(OTHER)), FULL))
    assert keys.find(f"{scheme} {SECRET}", NOW) is FULL


@pytest.mark.parametrize(
    "shown",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        SECRET,
        f"Basic {SECRET}",
        f"Bearer {OTHER}",
        f"Bearer {SECRET[:-1]}",
        f"Bearer {SECRET}x",
        f"Bearer {SECRET} ",
        f" Bearer {SECRET}",
        f"Bearer\t{SECRET}",
        f"Bearer {SECRET}, Bearer {SECRET}",
        f"Bearer {SECRET.upper()}",
        f"Bearer {digest(SECRET)}",
        f"Bearer {SECRET}é",
        "Bearer " + "a" * 257,
        "Bearer newsroom",
    ],
)
def test_anything_else_finds_none(shown: str | None) -> None:
    assert ApiKeys(keys=(FULL,)).find(shown, NOW) is None


def test_without_keys_nobody_is_let_in() -> None:
    assert ApiKeys().find(f"Bearer {SECRET}", NOW) is None


def test_a_key_is_refused_from_the_second_of_its_end() -> None:
    end = datetime(2030, 1, 1, tzinfo=UTC)
    keys = ApiKeys(keys=(ApiKey("a", digest(SECRET), expires=end),))
    assert keys.find(f"Bearer {SECRET}", end.timestamp() - 0.001)
    assert keys.find(f"Bearer {SECRET}", end.timestamp()) is None


def test_every_entry_is_compared_even_after_one_has_matched(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(stored: str, presented: str) -> bool:
        compared.append(stored)
        return stored == presented

    monkeypatch.setattr("engine.access.api_keys.hmac.compare_digest", compare)
    keys = ApiKeys(keys=(FULL, ApiKey("other", digest(OTHER))))
    assert keys.find(f"Bearer {SECRET}", NOW) is FULL
    assert compared == [digest(SECRET), digest(OTHER)]


# --- changing


def test_keys_are_added_and_taken_away_by_name() -> None:
    other = ApiKey("other", digest(OTHER))
    keys = ApiKeys().adding(FULL).adding(other)
    assert keys.keys == (FULL, other)
    assert keys.without("newsroom").keys == (other,)


def test_a_name_is_given_once_and_taken_away_once() -> None:
    keys = ApiKeys(keys=(FULL,))
    with pytest.raises(KeyFileError, match="exists"):
        keys.adding(ApiKey("newsroom", digest(OTHER)))
    with pytest.raises(KeyFileError, match="no key of this name"):
        keys.without("other")


# --- the file


def test_a_file_is_read_as_it_stands() -> None:
    text = f"""
        version = 1
        [[keys]]
        name = "newsroom"
        sha256 = "{digest(SECRET)}"
        requests_per_minute = 60
        concurrent_requests = 4
        audio_seconds_per_day = 36000
        expires = 2031-01-01T01:00:00+01:00
        [[keys]]
        name = "other"
        sha256 = "{digest(OTHER)}"
    """
    keys = parse_keys(text.encode())
    assert keys.keys == (FULL, ApiKey("other", digest(OTHER)))
    assert [key.limits for key in keys.keys] == [Limits(60, 4, 36_000), Limits()]


@pytest.mark.parametrize("written", ["2031-01-01", '"2031-01-01"', '"2031-01-01T00:00:00Z"', "2031-01-01T00:00:00Z"])
def test_an_end_may_be_a_day_or_a_time_as_toml_or_as_text(written: str) -> None:
    (key,) = parse_keys(f"version = 1\n{entry(expires=written)}".encode()).keys
    assert key.expires == datetime(2031, 1, 1, tzinfo=UTC)


def test_a_file_without_keys_is_one() -> None:
    assert parse_keys(b"version = 1\n") == ApiKeys()


counts = st.none() | st.integers(1, 1_000_000_000)
names = st.text("aZ9._@-", max_size=63).map("n".__add__)
moments = st.none() | st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
entries = st.builds(ApiKey, names, st.binary(max_size=4).map(bytes.hex).map(digest), counts, counts, counts, moments)


@settings(max_examples=50)
@given(st.lists(entries, max_size=5, unique_by=(lambda key: key.name, lambda key: key.sha256)))
def test_what_is_written_is_read_back(keys: list[ApiKey]) -> None:
    written = encode_keys(ApiKeys(keys=tuple(keys)))
    if digest("") not in {key.sha256 for key in keys}:
        assert parse_keys(written) == ApiKeys(keys=tuple(keys))


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"name": None}, "keys.0.name"),
        ({"name": "1"}, "keys.0.name"),
        ({"name": '"a b"'}, "keys.0.name: a name is up to 64"),
        ({"sha256": None}, "keys.0.sha256"),
        ({"sha256": f'"{"A" * 64}"'}, "keys.0.sha256"),
        ({"sha256": f'"{"a" * 63}"'}, "keys.0.sha256"),
        ({"sha256": f'"{digest("")}"'}, "keys.0.sha256: of no key at all"),
        ({"requests_per_minute": "0"}, "keys.0.requests_per_minute"),
        ({"requests_per_minute": "-1"}, "keys.0.requests_per_minute"),
        ({"requests_per_minute": "1.0"}, "keys.0.requests_per_minute"),
        ({"requests_per_minute": "true"}, "keys.0.requests_per_minute"),
        ({"concurrent_requests": '"1"'}, "keys.0.concurrent_requests"),
        ({"audio_seconds_per_day": "1000000001"}, "keys.0.audio_seconds_per_day"),
        ({"audio_seconds_per_day": "inf"}, "keys.0.audio_seconds_per_day"),
        ({"expires": "2030-01-01T00:00:00"}, "keys.0.expires: a time needs its offset"),
        ({"expires": "12:00:00"}, "keys.0.expires: a day such as"),
        ({"expires": "1893456000"}, "keys.0.expires: must be a time"),
        ({"expires": "true"}, "keys.0.expires: must be a time"),
        ({"flavour": "1"}, "keys.0.flavour: unknown member"),
    ],
)
def test_an_entry_at_fault_is_refused_by_its_place(members: dict[str, str | None], fault: str) -> None:
    assert fault in faults(entry(**members))


def test_all_faults_come_in_one_message() -> None:
    message = faults(
        entry(name='"same"', sha256=f'"{"1" * 64}"'),
        entry(name='"same"', sha256='"short"', expires='"soon"'),
        entry(sha256=f'"{"1" * 64}"', requests_per_minute="0", flavour="1"),
        version="extra = 1\n",
    )
    for fault in (
        "version: is needed",
        "extra: unknown member",
        "keys.1.name: the same as keys.0.name",
        "keys.2.sha256: the same as keys.0.sha256",
        "keys.1.sha256:",
        "keys.1.expires:",
        "keys.2.requests_per_minute:",
        "keys.2.flavour: unknown member",
    ):
        assert fault in message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"keys = 1",
        b"keys = [1, 2]",
        b"version = 2",
        b"version = 1.0",
        b"version = true",
        b"version = 1\nkeys = {}",
        b"version = 1\nkeys = [1]",
        b'version = 1\nkeys = ["a"]',
        b"version = 1\nat = 12:00:00",
        b"\xff",
        b"version = 1\n[[keys]",
        b"a = " + b"[" * 10_000,
        b"#" * (MAX_FILE_BYTES + 1),
    ],
)
def test_what_is_no_file_of_keys_is_refused(data: bytes) -> None:
    with pytest.raises(KeyFileError):
        parse_keys(data)


@pytest.mark.parametrize(
    "text",
    [
        entry(name=f'"{SECRET}"'),
        entry(sha256=f'"{SECRET}"'),
        entry(expires=f'"{SECRET}"'),
        entry(**{SECRET: "1"}),
        f"{SECRET} = 1\n",
        f"{SECRET}\n",
        f'"{SECRET}',
        f"[{SECRET}]\n[{SECRET}]\n",
        f"{SECRET} = 1\n{SECRET} = 1\n",
    ],
)
def test_a_key_in_the_wrong_place_is_not_repeated(text: str) -> None:
    message = faults(text)
    assert SECRET[len(PREFIX) :] not in message
