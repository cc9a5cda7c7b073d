"""Policies as files: one that asks for real evidence, its release, and keys to sign it with."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from attestation.release.signature import PolicyKey, signature_path

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
KEY = PolicyKey(bytes(range(32)))
OTHER_KEY = PolicyKey(bytes(32))

INSECURE = "version = 1\n[insecure]\naccept = true\n"
SNP = f"""version = 1
[snp]
measurements = ["{"ab" * 48}"]
[[snp.products]]
name = "Milan"
min_tcb = {{ bootloader = 4, tee = 0, snp = 24, microcode = 219 }}
"""
INSECURE_ROOTS = f'[insecure_roots]\nsnp = ["{"cd" * 32}"]\n'


def release(version: int = 1, expires: str = "2099-01-01T00:00:00Z") -> str:
    return f'[release]\nversion = {version}\nexpires = "{expires}"\n'


def written(directory: Path, text: str, *, key: PolicyKey | None = None) -> Path:
    """A policy's file, with its signature beside it if there is a key."""
    path = directory / "policy.toml"
    path.write_text(text)
    if key is not None:
        signature_path(path).write_bytes(key.sign(text.encode()))
    return path
