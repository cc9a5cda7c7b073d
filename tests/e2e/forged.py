"""Machines with evidence of the real formats, signed by vendors made up here; their policies, and who asks by them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from attestation.collateral.store import Cache, Piece
from attestation.types import CollateralKind
from proxy.app import running_proxy
from proxy.engines.trust import Outcome, Trust
from tests.attestation.gpu import forge
from tests.attestation.gpu.forge import DRIVER, GPU_VBIOS, ROOTS
from tests.attestation.snp.forge import MEASUREMENT, ForgedAmd
from tests.attestation.tdx.forge import BODY, ForgedIntel
from tests.e2e.conftest import TRANSCRIPTIONS, form, proxy_settings
from tests.e2e.processes import RECORDING, Program
from tests.waiting import until

NOW = datetime.now(UTC)
AMD = ForgedAmd(now=NOW)
INTEL = ForgedIntel(now=NOW)
GPUS = forge.Machine.build(gpus=1)

SNP_RULES = f"""
[snp]
measurements = ["{MEASUREMENT.hex()}"]
[[snp.products]]
name = "Milan"
min_tcb = {{ bootloader = 4, tee = 0, snp = 24, microcode = 219 }}
"""
TDX_RULES = f"""
[[tdx.hardware]]
mr_td = "{BODY["mr_td"].hex()}"
rtmr0 = "{BODY["rtmr0"].hex()}"
[[tdx.code]]
rtmr1 = "{BODY["rtmr1"].hex()}"
rtmr2 = "{BODY["rtmr2"].hex()}"
"""
GPU_RULES = f"""
[gpu]
count = 1
architectures = ["HOPPER"]
driver_versions = ["{DRIVER}"]
vbios_versions = ["{GPU_VBIOS}"]
"""
FORGED = {
    "snp": AMD.roots.snp,
    "tdx": INTEL.roots.tdx,
    "gpu_device": ROOTS.gpu_device,
    "gpu_rim": ROOTS.gpu_rim,
}


def written(path: Path, rules: str, *roots: str) -> Path:
    """The file of a policy. roots: the vendors whose forgeries it believes."""
    pins = [f"{name} = {sorted(FORGED[name])}\n" for name in roots]
    path.write_text("version = 1\n" + rules + ("[insecure_roots]\n" + "".join(pins) if pins else ""))
    return path


def beside(
    directory: Path, vendor: ForgedAmd | ForgedIntel, gpus: forge.Machine | None, *, everything: bool = False
) -> tuple[str, ...]:
    """Of an engine that finds in a directory what its machine does not deliver, and asks no vendor.

    everything: the machine delivers nothing.
    """
    pieces = dict(vendor.collateral() if isinstance(vendor, ForgedIntel) else vendor.collateral(vendor.report()))
    delivered = () if everything else (CollateralKind.SNP_VEK, CollateralKind.SNP_CHAIN)
    cache = Cache(directory)
    for key, data in {**pieces, **(gpus.collateral(NOW) if gpus else {})}.items():
        if key.kind not in delivered:
            cache.put(key, Piece(data, NOW))
    return "--collateral-dir", str(directory), "--offline-collateral"


def offline(directory: Path) -> tuple[str, ...]:
    """Of a proxy that knows nothing but what the engine delivers."""
    return (
        "--offline-collateral",
        "--collateral-dir",
        str(directory / "none"),
        "--state-dir",
        str(directory / "state"),
    )


async def attestation(session: aiohttp.ClientSession, front: Program) -> dict[str, Any]:
    async with session.get(front.url + "/attestation") as response:
        return dict(await response.json())


async def transcribed(session: aiohttp.ClientSession, front: Program) -> tuple[int, dict[str, Any]]:
    async with session.post(front.url + TRANSCRIPTIONS, data=form(RECORDING.read_bytes())) as response:
        return response.status, await response.json()


@asynccontextmanager
async def asked(directory: Path, behind: Program, policy: Path) -> AsyncIterator[Trust]:
    """What a proxy in this process makes of an engine, as soon as it has made up its mind."""
    options: dict[str, Any] = {"policy": policy, "offline_collateral": True}
    options |= {"collateral_dir": directory / "none", "state_dir": directory / "state"}
    async with running_proxy(proxy_settings(behind.url, **options)) as front:
        await until(lambda: front.trust.last_attempt)
        yield front.trust


async def refusal(directory: Path, behind: Program, policy: Path) -> dict[str, str]:
    """The checks by which a proxy refuses an engine."""
    async with asked(directory, behind, policy) as trust:
        assert trust.last_attempt is not None
        assert (trust.last_attempt.outcome, trust.is_ready) == (Outcome.REFUSED, False)
        return {check.name: check.detail for check in trust.last_attempt.checks if check.failed}
