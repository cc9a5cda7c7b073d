"""Which files is a reference value computed from? Read, with faults told as usage."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from attestation.bundle import MAX_BUNDLE_BYTES, Bundle, parse_saved
from attestation.cli.sources import read_file
from attestation.errors import EvidenceError, SourceFileError
from attestation.recognition import recognise
from attestation.reference.dstack import host_data_of, mr_config_id_of
from attestation.reference.initdata import MAX_INITDATA_BYTES, Initdata, parse_initdata
from attestation.reference.pods import MAX_YAML_BYTES, read_pods
from attestation.reference.policy_text import told_file
from attestation.types import Evidence, EvidenceKind

MAX_IMAGE_BYTES = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Boot:
    """What is booted. told: each of it by its digest."""

    kernel: bytes | None
    initrd: bytes | None
    command_line: str
    told: tuple[str, ...]


def boot_of(kernel: Path | None, initrd: Path | None, line: str | None, line_file: Path | None) -> Boot:
    """Kernel, initrd and command line, as options give them. Raises SourceFileError."""
    if line is not None and line_file is not None:
        raise typer.BadParameter("the command line is given twice", param_hint="--cmdline-file")
    if kernel is None and (initrd or line or line_file):
        raise typer.BadParameter("initrd and command line are those of a kernel", param_hint="--kernel")
    # /proc/cmdline ends in a line break that the kernel adds.
    text = text_of(line_file).removesuffix("\n") if line_file else line or ""
    images = {name: bytes_of(path) if path else None for name, path in (("kernel", kernel), ("initrd", initrd))}
    told = (*(told_file(name, data) for name, data in images.items()), f"command line: {text!r}")
    return Boot(images["kernel"], images["initrd"], text, told)


@dataclass(frozen=True, slots=True)
class Given:
    """What a host was given to give to its guest."""

    host_data: bytes
    mr_config_id: bytes
    origin: str


def given_of(initdata: list[Path] | None, dstack: list[Path] | None) -> tuple[Given, ...]:
    """What stands in these files, each once. Raises SourceFileError."""
    found = [
        Given(one.host_data, one.mr_config_id, f"{name}, {one.algorithm}")
        for path in initdata or ()
        for name, one in initdata_of(path)
    ]
    documents = [(path.name, bytes_of(path)) for path in dstack or ()]
    found += [Given(host_data_of(data), mr_config_id_of(data), f"{name}, mr_config 3") for name, data in documents]
    return tuple({(one.host_data, one.mr_config_id): one for one in found}.values())


def initdata_of(path: Path) -> Iterator[tuple[str, Initdata]]:
    """The initdata in a file, TOML or YAML, with its name."""
    data = read_file(path, max_bytes=max(MAX_INITDATA_BYTES, MAX_YAML_BYTES), hint=path.name)
    if is_yaml(data):
        yield from ((f"{path.name} {pod.name}", pod.initdata) for pod in read_pods(data))
    else:
        yield path.name, parse_initdata(data)


def is_yaml(data: bytes) -> bool:
    """Whether a file is rather YAML than TOML, by the first line that is no comment."""
    lines = (line for line in data.splitlines() if line.strip() and not line.startswith(b"#"))
    return re.match(rb"---|[A-Za-z]+:", next(lines, b"")) is not None


def evidence_of(path: Path, kind: EvidenceKind) -> Evidence:
    """What one guest gave, in a bundle or bare. Raises EvidenceError."""
    data = read_file(path, max_bytes=MAX_BUNDLE_BYTES, hint="--measured")
    try:
        saved = parse_saved(data)
        evidence: object = (saved.document if isinstance(saved, Bundle) else saved).evidence
    except EvidenceError:
        evidence = recognise(data)
    if not isinstance(evidence, Evidence) or evidence.kind is not kind:
        raise EvidenceError(f"{path.name}: no evidence of a machine with {kind}")
    return evidence


def bytes_of(path: Path, *, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
    """A whole file. Raises SourceFileError when it is longer than any such file."""
    data = read_file(path, max_bytes=max_bytes, hint=path.name)
    if len(data) > max_bytes:
        raise SourceFileError(f"{path.name}: longer than {max_bytes} bytes")
    return data


def text_of(path: Path) -> str:
    """A whole file of text. Raises SourceFileError."""
    try:
        return bytes_of(path, max_bytes=MAX_INITDATA_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise SourceFileError(f"{path.name}: not UTF-8") from None
