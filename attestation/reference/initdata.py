"""What did the owner of a pod of Confidential Containers fix for its guest? Initdata, with a digest in the evidence.

::

    version = "0.1.0"
    algorithm = "sha384"                      # sha256, sha384 or sha512
    [data]
    "aa.toml" = '''...'''                     # of the attestation agent
    "cdh.toml" = '''...'''                    # of the confidential data hub: which images may be pulled
    "policy.rego" = '''...'''                 # what the agent lets the host ask for: containers, arguments, mounts

The digest is of these bytes exactly, whatever they say. The host puts it where the processor signs it: into HOST_DATA
of SEV-SNP (32 bytes) or MRCONFIGID of TDX (48 bytes), a longer one cut at its end, a shorter one followed by zeros. The
pod carries the bytes in an annotation, as base64 of gzip. (Kata Containers 4.0.0, kata-types/src/initdata.rs; Trustee,
kbs/docs/initdata.md.)
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
import struct
import tomllib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field, TypeAdapter

from attestation.errors import SourceFileError
from core.program.settings import ConfigFileError, parse_toml
from core.program.validation import STRICT, decode_base64, encode_base64, validate

ANNOTATION: Final = "io.katacontainers.config.hypervisor.cc_init_data"
AGENT: Final = "aa.toml"
DATA_HUB: Final = "cdh.toml"
AGENT_POLICY: Final = "policy.rego"

HOST_DATA_BYTES: Final = 32
MR_CONFIG_ID_BYTES: Final = 48

MAX_INITDATA_BYTES: Final = 4 * 1024 * 1024
MAX_ANNOTATION_BYTES: Final = 256 * 1024
"""What Kubernetes allows for all annotations of an object together."""

_IMAGE = re.compile(r"(?P<name>[a-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9._-]+)+)@sha256:[0-9a-f]{64}")
_GZIP_HEAD: Final = bytes.fromhex("1f8b0800000000000003")
"""Deflate, no name, no time, Unix: the same wherever it is made."""


class Algorithm(StrEnum):
    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"


@dataclass(frozen=True, slots=True)
class _Members:
    __pydantic_config__ = STRICT
    version: Annotated[str, Field(pattern=r"^0\.1\.0$")]
    algorithm: Algorithm
    data: Mapping[str, str]


_MEMBERS: Final = TypeAdapter(_Members)


@dataclass(frozen=True, slots=True)
class Initdata:
    """Initdata that was read. toml: the exact bytes, which alone count."""

    toml: bytes
    algorithm: Algorithm
    data: Mapping[str, str]

    @property
    def digest(self) -> bytes:
        return hashlib.new(self.algorithm, self.toml).digest()

    @property
    def host_data(self) -> bytes:
        """What a report of SEV-SNP says, 32 bytes."""
        return self.digest[:HOST_DATA_BYTES].ljust(HOST_DATA_BYTES, b"\x00")

    @property
    def mr_config_id(self) -> bytes:
        """What a TDX quote says, 48 bytes."""
        return self.digest[:MR_CONFIG_ID_BYTES].ljust(MR_CONFIG_ID_BYTES, b"\x00")

    def annotate(self) -> str:
        """The value of the annotation. Raises SourceFileError when no pod could carry it."""
        deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed = _GZIP_HEAD + deflate.compress(self.toml) + deflate.flush()
        packed += struct.pack("<II", zlib.crc32(self.toml), len(self.toml))
        annotation = encode_base64(packed)
        if len(annotation) > MAX_ANNOTATION_BYTES:
            raise SourceFileError(f"initdata: an annotation of {len(annotation)} bytes is more than Kubernetes takes")
        return annotation


def parse_initdata(toml: bytes) -> Initdata:
    """Read initdata. Raises SourceFileError."""
    if len(toml) > MAX_INITDATA_BYTES:
        raise SourceFileError(f"initdata: longer than {MAX_INITDATA_BYTES} bytes")
    try:
        members = validate(_MEMBERS, parse_toml(toml))
    except (ConfigFileError, ValueError) as exc:
        raise SourceFileError(f"initdata: {exc}") from None
    return Initdata(toml, members.algorithm, members.data)


def parse_annotation(value: str) -> Initdata:
    """Read the annotation of a pod. Raises SourceFileError."""
    try:
        packed = decode_base64(
            "".join(value.split())
        )  # a block of YAML has line breaks, which the runtime would refuse
        inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
        toml = inflate.decompress(packed, MAX_INITDATA_BYTES + 1)
    except (ValueError, binascii.Error, zlib.error):
        raise SourceFileError(f"{ANNOTATION}: not base64 of gzip") from None
    if not inflate.eof and len(toml) <= MAX_INITDATA_BYTES:
        raise SourceFileError(f"{ANNOTATION}: gzip that is cut short")
    if inflate.unused_data:  # which some readers take for more of it, and others pass over
        raise SourceFileError(f"{ANNOTATION}: something behind the gzip")
    return parse_initdata(toml)


def write_initdata(data: Mapping[str, str], algorithm: Algorithm = Algorithm.SHA384) -> Initdata:
    """Initdata that says this and no more, in the same bytes every time."""
    head = f'version = "0.1.0"\nalgorithm = "{algorithm}"\n\n[data]\n'
    entries = "".join(f"{json.dumps(name)} = {_string(text)}\n" for name, text in sorted(data.items()))
    initdata = parse_initdata((head + entries).encode())
    if initdata.data != dict(data):
        raise SourceFileError("initdata: a file with characters that TOML does not carry")
    return initdata


def _string(text: str) -> str:
    """A TOML string: as it stands, so that a person can read it, or where that cannot be with escapes."""
    literal = f"'''\n{text}'''"
    try:
        if tomllib.loads(f"text = {literal}")["text"] == text:
            return literal
    except tomllib.TOMLDecodeError:
        pass
    return _escaped(text)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def image_policy(images: Sequence[str]) -> str:
    """The `cdh.toml` under which a guest pulls these images, by their digests, and no other.

    images: `HOST/NAME@sha256:DIGEST`, as the pod names them. Raises SourceFileError.
    """
    for image in images:
        if not _IMAGE.fullmatch(image):
            raise SourceFileError(f"an image is named HOST/NAME@sha256:DIGEST, which {image} is not")
    # containers-policy.json(5): what arrives under a digest has it, so that no signature is needed beside.
    scopes = {image: [{"type": "insecureAcceptAnything"}] for image in sorted(images)}
    policy = {"default": [{"type": "reject"}], "transports": {"docker": scopes}}
    return f"[image]\nimage_security_policy = {_escaped(json.dumps(policy))}\n"
