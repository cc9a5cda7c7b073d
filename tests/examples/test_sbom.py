"""Bills of materials of archives made up for the purpose."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from examples.sbom import main

SHA256 = "5a" * 32
FILES = {
    "opt/x/lib/python3.11/site-packages/some_part-1.2.dist-info/METADATA": (
        "Metadata-Version: 2.4\nName: Some_Part\nVersion: 1.2\nLicense-Expression: MIT OR Apache-2.0\n\nName: a trap\n"
    ),
    "opt/x/lib/python3.11/site-packages/some_part/METADATA": "Name: no distribution\nVersion: 1\n",
    "usr/lib/os-release": 'ID=debian\nVERSION_ID="12"\n\n',
    "var/lib/dpkg/status.d/libx": (
        "Package: libx\nVersion: 1:2.0-1+deb12u1\nArchitecture: amd64\nDescription: a\n library\n"
    ),
    "var/lib/dpkg/sha256sums": f"{SHA256}  ./libx_1%3a2.0-1+deb12u1_amd64.deb\n",
}


def write(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def layer(files: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            write(archive, name, content.encode())
    return packed.getvalue()


def image(path: Path, *layers: Mapping[str, str]) -> Path:
    """Write an OCI archive."""
    blobs: dict[str, bytes] = {}

    def put(content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"digest": f"sha256:{digest}"}

    config = put(json.dumps({"created": "2026-11-30T00:00:00Z"}).encode())
    manifest = put(json.dumps({"config": config, "layers": [put(layer(files)) for files in layers]}).encode())
    reference = {"org.opencontainers.image.ref.name": "localhost/some:1.0"}
    with tarfile.open(path, "w") as archive:
        write(archive, "index.json", json.dumps({"manifests": [manifest | {"annotations": reference}]}).encode())
        for name, content in blobs.items():
            write(archive, name, content)
    return path


def test_every_package_is_named_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(image(tmp_path / "image.tar", FILES))]) == 0
    text = capsys.readouterr().out
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    told = json.loads(text)
    python, debian = sorted(told["components"], key=lambda part: str(part["purl"]), reverse=True)
    assert python["purl"] == "pkg:pypi/some-part@1.2"
    assert python["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert debian["purl"] == "pkg:deb/debian/libx@1:2.0-1%2Bdeb12u1?arch=amd64&distro=debian-12"
    assert debian["hashes"] == [{"alg": "SHA-256", "content": SHA256}]
    assert told["metadata"]["component"]["name"] == "localhost/some"
    assert told["metadata"]["timestamp"] == "2026-11-30T00:00:00+00:00"


def test_packages_of_an_ordinary_base_are_named_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stanza = "Package: {}\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n"
    status = {
        "var/lib/dpkg/status": f"{stanza.format('one')}\n{stanza.format('two')}\n",
        "usr/lib/os-release": "ID=ubuntu\n",
    }
    assert main([str(image(tmp_path / "image.tar", status))]) == 0
    components = json.loads(capsys.readouterr().out)["components"]
    assert [part["purl"].partition("?")[0] for part in components] == ["pkg:deb/ubuntu/one@1", "pkg:deb/ubuntu/two@1"]


def test_a_later_layer_replaces_what_an_earlier_one_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "usr/lib/python3/dist-packages/some-1.dist-info/METADATA"
    layers = [{name: f"Name: some\nVersion: {version}\n"} for version in (1, 2)]
    assert main([str(image(tmp_path / "image.tar", *layers))]) == 0
    (part,) = json.loads(capsys.readouterr().out)["components"]
    assert part["version"] == "2"


def test_the_same_image_has_the_same_bill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bills = set()
    for name in ("one.tar", "two.tar"):
        assert main([str(image(tmp_path / name, FILES))]) == 0
        bills.add(capsys.readouterr().out)
    assert len(bills) == 1


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_what_is_no_image_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None) -> None:
    path = tmp_path / "image.tar"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert str(path) in told.err
