"""The keys of all vectors, and the words that several files use."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

from core.channel.kem import Kem, PrivateKey
from core.channel.keyconfig import KeyConfig, decode_key_config

FORMAT: Final = 1
MAX_WIRE_BYTES: Final = 8_192
"""Longer messages stand in the files as their digest only."""

SUITES: Final = "0001000200010003" + "00010001"
HEAD: Final = ["02", "{method}", "{scheme}", "{authority}", "{path}", "00"]
MESSAGE: Final = [*HEAD, "00", "00"]
MAX_CHUNK_BYTES: Final = 65_536
MAX_REQUEST_BYTES: Final = 27_262_976


def private(name: str) -> bytes:
    """32 bytes that are always the same for a name."""
    return sha256(b"sottovoce conformance " + name.encode()).digest()


def key_config(name: str, key_id: int, kem: Kem = Kem.X25519_HKDF_SHA256) -> KeyConfig:
    """The configuration of the key of that name."""
    public = PrivateKey.from_bytes(private(name), kem).public_key
    encoded = bytes([key_id]) + kem.to_bytes(2, "big") + public + (12).to_bytes(2, "big") + bytes.fromhex(SUITES)
    return decode_key_config(encoded)


KEY_NAME: Final = "gateway key"
CONFIG: Final = key_config(KEY_NAME, 0x5A)
OTHER_CONFIG: Final = key_config("another gateway key", 0x5B)
LIVE_KEY_NAME: Final = "live gateway key"
LIVE_CONFIG: Final = key_config(LIVE_KEY_NAME, 0x6C)


PQ: Final = int(Kem.MLKEM768_X25519)
PQ_KEY_NAME: Final = "post-quantum gateway key"
PQ_CONFIG: Final = key_config(PQ_KEY_NAME, 0x7B, Kem.MLKEM768_X25519)
PQ_LIVE_KEY_NAME: Final = "post-quantum live gateway key"
PQ_LIVE_CONFIG: Final = key_config(PQ_LIVE_KEY_NAME, 0x7C, Kem.MLKEM768_X25519)


def key_figures(name: str, config: KeyConfig) -> dict[str, str]:
    return {"private": private(name).hex(), "config": config.encode().hex()}


def accepted(**more: Any) -> dict[str, Any]:
    return {"verdict": "accepted", **more}


def refused(code: str, **more: Any) -> dict[str, Any]:
    return {"verdict": "refused", "code": code, **more}


KEY_MISMATCH: Final = refused("key_mismatch", outer=422)
MALFORMED: Final = refused("malformed", outer=400)
REPLAY: Final = refused("replay", outer=400)
OVERSIZE: Final = refused("oversize", outer=413)
NOT_HERE: Final = refused("not_here", outer=200, status=404)
