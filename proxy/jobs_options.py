"""Where are jobs kept, where do their recordings come from, and where do messages about them go?

The places of jobs are told alike to the proxy and to the commands that look after jobs.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from core.program.files import configuration_directory, state_directory
from core.program.settings import ProgramSettings

_SCHEMES: Final = ("postgresql", "postgres")


def _database(value: object) -> object:
    """A URL in place, if there is no password in it, or one in a file."""
    if not isinstance(value, str):
        return value
    text = value
    if value.startswith("@"):
        try:
            text = Path(value[1:]).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ValueError(f"its file cannot be read: {type(exc).__name__}") from exc
    elif "password" in value or urlsplit(value).password is not None:
        raise ValueError("a URL with a password is given as @FILE, never in place")
    if urlsplit(text).scheme not in _SCHEMES:
        raise ValueError("must be postgresql://...")
    return SecretStr(text)


DatabaseUrl = Annotated[SecretStr, BeforeValidator(_database)]


class JobsOptions(ProgramSettings):
    """The places of jobs."""

    jobs_dir: Path | None = Field(
        None,
        description="Directory of jobs: their database and recordings, sealed. Default: the user's data directory.",
    )
    jobs_key: Path | None = Field(
        None,
        description="File of the keys that seal jobs, one of 64 hexadecimal digits on each line; made where a new "
        "database is in a file. Default: jobs.key in the user's configuration directory.",
    )
    jobs_keyring: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Entry of the operating system's keyring that has these keys, instead of a file (extra `keyring`).",
    )
    jobs_database: DatabaseUrl | None = Field(
        None, description="postgresql://... of the jobs of several proxies, or @FILE with it. Default: a file."
    )
    jobs_blobs: str | None = Field(
        None,
        description="s3://BUCKET/PREFIX of the recordings, with keys from AWS_* variables. Default: a directory.",
    )

    @field_validator("jobs_blobs")
    @classmethod
    def _a_bucket(cls, blobs: str | None) -> str | None:
        if blobs is not None and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:/[^?#\s]*)?", blobs):
            raise ValueError("must be s3://BUCKET[/PREFIX]")
        return blobs

    @model_validator(mode="after")
    def _one_place_of_keys(self) -> Self:
        if self.jobs_key is not None and self.jobs_keyring is not None:
            raise ValueError("--jobs-key or --jobs-keyring, not both")
        return self

    @property
    def jobs_directory(self) -> Path:
        return self.jobs_dir or state_directory() / "jobs"

    @property
    def jobs_key_file(self) -> Path:
        return self.jobs_key or configuration_directory() / "jobs.key"


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _split(value: object) -> object:
    """One variable holds a list with commas; flags and files hold lists."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _command(path: Path) -> Path:
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ValueError("there is no such command")
    return path.absolute()


class SourceOptions(ProgramSettings):
    """Where recordings of jobs come from, how they are cut, and where messages go."""

    jobs_links: bool = Field(
        True, description="Fetch recordings from links; this proxy then connects to what apps name, on the internet."
    )
    jobs_link_resolver: Annotated[Path, AfterValidator(_command)] | None = Field(
        None, description="Command that tells where the file behind a link of YouTube or OneDrive is. Default: none is."
    )
    jobs_allow_network: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="DANGER: internal network that links and webhooks may lead into too, 10.1.0.0/16; may be repeated.",
    )
    jobs_cut: bool = Field(
        True,
        description="Decode recordings here, in a sandbox, and cut them into parts (extra `media`, Linux); otherwise "
        "they go as they are, up to 25 MiB.",
    )
    jobs_part_s: int = Field(600, ge=10, le=780, description="Longest part of a recording that is one request.")
    jobs_parts_at_once: int = Field(4, ge=1, le=64, description="How many parts of one job are heard at a time.")
