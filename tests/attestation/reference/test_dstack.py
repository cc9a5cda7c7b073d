"""What a report of a real machine of dstack's bears is what its document gives."""

from __future__ import annotations

import hashlib

from attestation.reference.dstack import host_data_of, mr_config_id_of
from tests.vectors import vector


def test_a_real_report_bears_the_digest_of_its_document() -> None:
    attestation = vector("snp/dstack_milan_v3_attestation.scale")
    start = attestation.index(b'{"app_id"')
    document = attestation[start : attestation.index(b"}", start) + 1]
    assert host_data_of(document) == attestation[4 + 0xC0 : 4 + 0xE0]
    assert host_data_of(document + b"\n") != host_data_of(document)


def test_a_quote_has_the_digest_between_a_version_and_zeros() -> None:
    digest = hashlib.sha256(b"dstack-mr-config-v3:\0{}").digest()
    assert mr_config_id_of(b"{}") == b"\x03" + digest + bytes(15)
    assert len(mr_config_id_of(b"{}")) == 48
