"""What is in the images, and what is not: read in the archives, without running them."""

from __future__ import annotations

import json
import re
import stat
import tomllib
from pathlib import Path
from typing import Final

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from examples.sbom import bill, read
from tests.images.archives import NAMES, Archive, find, unpack
from tests.places import ROOT

LOCKS = {"proxy": "requirements.lock", "engine": "requirements-engine.lock"}
SWITCHES = {
    "DO_NOT_TRACK=1",
    "HF_HUB_DISABLE_TELEMETRY=1",
    "HF_HUB_OFFLINE=1",
    "ORT_DISABLE_TELEMETRY=1",
    "PYANNOTE_METRICS_ENABLED=0",
    "VLLM_NO_USAGE_STATS=1",
}
TOOLS = {"sh", "bash", "dash", "busybox", "apt", "apt-get", "dpkg", "perl", "pip", "pip3", "ldd", "env", "cat", "mount"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def archive(name: str) -> Archive:
    return unpack(find(name))


THEIRS: Final = {"python_version": "3.11", "python_full_version": "3.11.2"}


def pinned(lock: str) -> dict[str, str]:
    """What a lock installs with the images' Python."""
    lines = re.findall(r"^([\w.-]+==[^\\\n]+)", (ROOT / lock).read_text(), re.MULTILINE)
    found = [Requirement(line) for line in lines]
    return {
        canonicalize_name(one.name): str(one.specifier).removeprefix("==")
        for one in found
        if one.marker is None or one.marker.evaluate(THEIRS)
    }


def test_the_image_says_how_it_is_run(name: str, archive: Archive) -> None:
    config = archive.config["config"]
    program = {"proxy": "sottovoce", "engine": "sottovoce-engine"}[name]
    assert config["Entrypoint"] == [f"/opt/sottovoce/bin/{program}"]
    assert config["User"] == "65532:65532"
    assert config["StopSignal"] == "SIGTERM"
    assert "PATH=/opt/sottovoce/bin" in config["Env"]
    assert "Volumes" not in config


def test_the_image_says_what_it_is(name: str, archive: Archive) -> None:
    labels = {key.rpartition(".")[2]: value for key, value in archive.config["config"]["Labels"].items()}
    assert labels["title"] == f"sottovoce-{name}"
    assert labels["licenses"] == "Apache-2.0"
    assert f'\nversion = "{labels["version"]}"\n' in (ROOT / "pyproject.toml").read_text()
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["revision"])
    assert labels["description"]


def test_nothing_in_the_engine_reports_home() -> None:
    assert set(unpack(find("engine")).config["config"]["Env"]) >= SWITCHES


def test_the_image_has_no_shell_and_no_tool(archive: Archive) -> None:
    programs = {Path(member.name).name for member in archive.members if member.mode & 0o111 and not member.isdir()}
    assert programs & TOOLS == set()
    binaries = {path for path in archive.names if re.fullmatch(r"(usr/)?s?bin/.+", path)}
    assert binaries == {"usr/bin/python3.11"}


def test_nobody_but_root_owns_or_writes_what_is_in_the_image(archive: Archive) -> None:
    owned = {member.name.strip("/") for member in archive.members if (member.uid, member.gid) != (0, 0)}
    assert owned == {"var/lib/sottovoce"}
    files = [member for member in archive.members if not member.issym()]
    writable = {member.name.strip("/") for member in files if member.mode & (stat.S_IWGRP | stat.S_IWOTH)}
    assert writable == {"tmp"}
    assert [member.name for member in files if member.mode & (stat.S_ISUID | stat.S_ISGID)] == []


def test_nothing_in_the_image_tells_when_it_was_built(archive: Archive) -> None:
    assert len({member.mtime for member in archive.members}) == 1
    assert [name for name in archive.names if name.endswith((".pyc", "__pycache__"))] == []


def test_the_proxy_has_nothing_that_recognises() -> None:
    archive = unpack(find("proxy"))
    assert archive.size_bytes < 460e6
    assert "opt/sottovoce/bin/sottovoce-engine" not in archive.names
    assert [name for name in archive.names if re.search(r"site-packages/(ctranslate2|tokenizers|torch)/", name)] == []


def test_the_bill_is_well_formed_and_that_of_the_image(name: str) -> None:
    text = find(name, "cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert text.rstrip("\n") == bill(read(find(name)))


def test_the_bill_names_what_the_lock_pins_and_nothing_else_of_python(name: str) -> None:
    components = json.loads(find(name, "cdx.json").read_text())["components"]
    installed = {
        canonicalize_name(part["name"]): part["version"]
        for part in components
        if part["purl"].startswith("pkg:pypi/") and part["name"] != "sottovoce"
    }
    lock = pinned(LOCKS[name])
    assert installed.items() <= lock.items()
    assert {"aiohttp", "cryptography", "pydantic"} <= set(installed)
    assert ("ctranslate2" in installed) == (name == "engine")


EXTRAS = {"proxy": ("otel", "jobs", "jobs-postgres", "jobs-s3", "media"), "engine": ("engine", "speakers", "otel")}
"""What settings of the programs take that an image's user cannot add, since there is no pip in it."""


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_what_settings_of_the_program_take(name: str) -> None:
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {Requirement(each).name for extra in EXTRAS[name] for each in optional[extra]} - {"sottovoce"}
    assert {canonicalize_name(each) for each in asked} <= set(pinned(LOCKS[name]))


def test_the_bill_names_every_debian_package_by_its_hash(name: str, archive: Archive) -> None:
    components = json.loads(find(name, "cdx.json").read_text())["components"]
    debian = {part["name"]: part for part in components if part["purl"].startswith("pkg:deb/debian/")}
    assert {f"var/lib/dpkg/status.d/{package}" for package in debian} <= archive.names
    assert {"libc6", "libssl3", "python3.11-minimal", "ca-certificates"} <= set(debian)
    assert all(part["hashes"][0]["alg"] == "SHA-256" and "distro=debian-12" in part["purl"] for part in debian.values())
