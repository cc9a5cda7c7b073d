"""Where does a program take the evidence of its machine from? The settings of every program that attests one."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from yarl import URL

from attestation.guest.coco import DEFAULT_URL
from attestation.guest.dstack import DEFAULT_SOCKET
from attestation.guest.tsm import DEFAULT_ROOT
from attestation.types import EvidenceSource
from core.program.settings import ProgramSettings


def _of_this_machine(text: str) -> str:
    try:
        url = URL(text)
        # An address, and no name: what names mean the host says, also `localhost`.
        local = url.scheme == "http" and ipaddress.ip_address(url.host or "").is_loopback
    except ValueError:
        local = False
    if not local or text != str(url.origin()):
        raise ValueError("must be http://ADDRESS:PORT, with a loopback address and nothing after it")
    return text


class GuestOptions(ProgramSettings):
    """Settings of `sottovoce-engine serve` and `sottovoce-attest collect`."""

    evidence_from: EvidenceSource | None = Field(
        None,
        description="Who hands out the evidence: the kernel (configfs), the API of Confidential Containers (coco) or "
        "dstack's agent (dstack). Default: whichever is there, in this order.",
    )
    tsm_path: Path = Field(
        DEFAULT_ROOT, description="Where the kernel hands out reports of the processor (configfs-tsm)."
    )
    coco_url: Annotated[str, AfterValidator(_of_this_machine)] = Field(
        DEFAULT_URL, description="URL of the REST API of Confidential Containers, with a loopback address."
    )
    dstack_socket: Path = Field(DEFAULT_SOCKET, description="Unix socket of dstack's guest agent.")
