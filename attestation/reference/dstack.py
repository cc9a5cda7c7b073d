"""What does dstack fix for its guest? The document of an application, and where evidence bears its digest.

::

    document     JSON: app_id, compose_hash, instance_id, key_provider, key_provider_id, version 3; its bytes count
    digest       SHA-256("dstack-mr-config-v3" || ":" || 00 || document)
    HOST_DATA    digest (SEV-SNP)
    MRCONFIGID   03 || digest || 15 zeros (TDX)

The compose file, and by it the images and their arguments, is in `compose_hash`. (dstack, mr_config.rs; a report of a
real machine bears such a digest.)
"""

from __future__ import annotations

import hashlib

_DOMAIN = b"dstack-mr-config-v3:\x00"
_VERSION = b"\x03"


def host_data_of(document: bytes) -> bytes:
    """What a report of SEV-SNP says, 32 bytes."""
    return hashlib.sha256(_DOMAIN + document).digest()


def mr_config_id_of(document: bytes) -> bytes:
    """What a TDX quote says, 48 bytes."""
    return _VERSION + host_data_of(document) + bytes(15)
