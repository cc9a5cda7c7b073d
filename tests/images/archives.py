"""The archives that `make image` leaves."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.places import ROOT
from tests.requirements import need

IMAGES = ROOT / "build" / "images"
NAMES = ("proxy", "engine")


@dataclass(frozen=True, slots=True)
class Archive:
    """An OCI archive of one image: its configuration, and the members of its layers."""

    path: Path
    config: dict[str, Any]
    members: tuple[tarfile.TarInfo, ...]

    @property
    def size_bytes(self) -> int:
        return sum(member.size for member in self.members)

    @property
    def names(self) -> set[str]:
        return {member.name.removeprefix("./") for member in self.members}


def find(name: str, kind: str = "tar") -> Path:
    """The archive of `proxy` or `engine`, or its bill of materials (`cdx.json`)."""
    path = IMAGES / f"sottovoce-{name}.{kind}"
    need(path.exists(), f"{path.name}, which `make image` builds")
    return path


def unpack(path: Path) -> Archive:
    with tarfile.open(path) as layout:
        manifest = _blob(layout, _json(layout, "index.json")["manifests"][0]["digest"])
        described = _json(layout, manifest)
        config = _json(layout, _blob(layout, described["config"]["digest"]))
        layers = [_blob(layout, layer["digest"]) for layer in described["layers"]]
        return Archive(path, config, tuple(member for layer in layers for member in _members(layout, layer)))


def _json(layout: tarfile.TarFile, name: str) -> Any:
    file = layout.extractfile(name)
    assert file is not None
    return json.load(file)


def _blob(layout: tarfile.TarFile, digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _members(layout: tarfile.TarFile, layer: str) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=layout.extractfile(layer)) as contents:
        yield from contents
