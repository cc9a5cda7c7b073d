"""Real attestation evidence, collected by others, that lives beside the project and is never committed to it.

`SOTTOVOCE_VECTORS` names its directory; without one it is looked for beside the checkout. Tests of what is not there
are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VECTORS = Path(os.environ.get("SOTTOVOCE_VECTORS") or Path(__file__).parents[2] / "shared" / "vectors")


def vector(name: str) -> bytes:
    """The bytes of one file of evidence, such as `snp/ms_milan_report.bin`."""
    path = VECTORS / name
    if not path.is_file():
        pytest.skip(f"needs real evidence: {name} is not under SOTTOVOCE_VECTORS")
    return path.read_bytes()
