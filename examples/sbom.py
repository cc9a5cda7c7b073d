"""What is in an image? Its bill of materials in CycloneDX's form, read from the image itself.

    python examples/sbom.py IMAGE.tar > IMAGE.cdx.json

IMAGE.tar is an archive as `buildah push ... oci-archive:` and `skopeo copy` write them (OCI image-layout). Told are the
packages of Python by their `METADATA`, those of Debian by what dpkg keeps of them, and the image by its identity. The
same image gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email import message_from_bytes, message_from_string
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

REFERENCE = "org.opencontainers.image.ref.name"
DPKG = "var/lib/dpkg/"
SUMS = f"{DPKG}sha256sums"
OS_RELEASE = "usr/lib/os-release"


@dataclass(frozen=True, slots=True)
class Image:
    """An image of an archive.

    reference: its name and tag. identity: SHA-256 of its configuration, by which programs know images. manifest:
    SHA-256 of its manifest as archived. files: what tells of packages, by path.
    """

    reference: str
    identity: str
    manifest: str
    created: datetime
    files: Mapping[str, bytes]


def read(archive: Path) -> Image:
    """Read an archive of one image. Raises OSError, tarfile.TarError, KeyError or ValueError where it is none."""
    with tarfile.open(archive) as layout:
        (entry,) = _json(layout, "index.json")["manifests"]
        manifest = _json(layout, _blob(entry["digest"]))
        config = _json(layout, _blob(manifest["config"]["digest"]))
        files: dict[str, bytes] = {}
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=layout.extractfile(_blob(layer["digest"]))) as contents:
                files |= _telling(contents)
    return Image(
        entry["annotations"][REFERENCE],
        manifest["config"]["digest"],
        entry["digest"],
        datetime.fromisoformat(config["created"]),
        files,
    )


def _json(layout: tarfile.TarFile, name: str) -> Any:
    return json.loads(_bytes(layout, layout.getmember(name)))


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is no file")
    return file.read()


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _telling(layer: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in layer:
        name = member.name.removeprefix("./")
        is_telling = name.endswith(".dist-info/METADATA") or name.startswith(DPKG) or name == OS_RELEASE
        if member.isfile() and is_telling:
            yield name, _bytes(layer, member)


def packages(image: Image) -> Iterator[Component]:
    """Every package of an image."""
    sums = {Path(name).name: sha256 for sha256, name in map(str.split, _text(image, SUMS).splitlines())}
    release = dict(line.split("=", 1) for line in _text(image, OS_RELEASE).splitlines() if "=" in line)
    system = {key: value.strip('"') for key, value in release.items()}
    for name, content in image.files.items():
        if name.endswith("/METADATA"):
            yield _python_package(content)
        elif name == f"{DPKG}status" or name.startswith(f"{DPKG}status.d/"):
            for stanza in content.decode().strip().split("\n\n"):
                yield _debian_package(dict(message_from_string(stanza)), system, sums)


def _text(image: Image, name: str) -> str:
    return image.files.get(name, b"").decode()


def _python_package(metadata: bytes) -> Component:
    fields = message_from_bytes(metadata)
    expression = fields["License-Expression"]
    return Component(
        name=fields["Name"],
        version=fields["Version"],
        type=ComponentType.LIBRARY,
        purl=PackageURL("pypi", None, fields["Name"], fields["Version"]),
        licenses=[LicenseFactory().make_from_string(expression)] if expression else [],
        bom_ref=f"pypi/{fields['Name']}",
    )


def _debian_package(fields: Mapping[str, str], system: Mapping[str, str], sums: Mapping[str, str]) -> Component:
    name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
    distribution = f"{system.get('ID', 'debian')}-{system.get('VERSION_ID', '')}"
    about = {"arch": architecture, "distro": distribution}
    # As `apt-get download` names files: a colon of an epoch is escaped.
    sha256 = sums.get(f"{name}_{version.replace(':', '%3a')}_{architecture}.deb")
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        purl=PackageURL("deb", system.get("ID", "debian"), name, version, about),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else [],
        bom_ref=f"deb/{name}",
    )


def bill(image: Image) -> str:
    """The bill of materials of an image, as JSON."""
    name, _, version = image.reference.rpartition(":")
    itself = Component(
        name=name,
        version=version,
        type=ComponentType.CONTAINER,
        bom_ref="image",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=image.manifest.removeprefix("sha256:"))],
        properties=[Property(name="sottovoce:image-id", value=image.identity)],
    )
    parts = {part.bom_ref.value: part for part in packages(image)}
    bom = Bom(
        serial_number=uuid5(NAMESPACE_URL, image.identity),
        metadata=BomMetaData(component=itself, timestamp=image.created),
        components=parts.values(),
    )
    bom.register_dependency(itself, parts.values())
    return JsonV1Dot6(bom).output_as_string(indent=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(description="Print the bill of materials of an image (CycloneDX).")
    parser.add_argument("archive", type=Path, metavar="IMAGE.tar", help="an OCI archive")
    options = parser.parse_args(arguments)
    try:
        image = read(options.archive)
    except (OSError, tarfile.TarError, KeyError, ValueError) as exc:
        print(f"{options.archive} is no archive of one image: {exc!r}", file=sys.stderr)
        return 1
    print(bill(image))
    return 0


if __name__ == "__main__":
    sys.exit(main())
