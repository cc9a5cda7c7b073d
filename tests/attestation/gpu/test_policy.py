"""The table `[gpu]` is read strictly, and rules that are empty or contradict each other are refused, all at once."""

from __future__ import annotations

import re
import textwrap
import tomllib
from dataclasses import fields
from typing import Any

import pytest
from pydantic import TypeAdapter

import attestation.gpu.policy
from attestation.gpu.evidence import Architecture
from attestation.gpu.nras import NrasPolicy
from attestation.gpu.ocsp import OcspPolicy
from attestation.gpu.policy import GpuPolicy, Mode, SwitchPolicy
from core.program.validation import validate

_ADAPTER = TypeAdapter(GpuPolicy)

MINIMAL = """
count = 1
architectures = ["HOPPER"]
driver_versions = ["590.12"]
vbios_versions = ["96.00.A5.00.01"]
"""
PPCIE = MINIMAL.replace("count = 1", "count = 2") + 'mode = "ppcie"\n'
SWITCHES = '[switches]\ncount = 2\nvbios_versions = ["96.10.73.00.01"]\n'


def _parse(text: str) -> GpuPolicy:
    return validate(_ADAPTER, tomllib.loads(text))


def test_a_minimal_policy_has_strict_defaults() -> None:
    policy = _parse(MINIMAL)
    assert policy == GpuPolicy(1, (Architecture.HOPPER,), ("590.12",), ("96.00.A5.00.01",))
    assert policy.mode is Mode.SPT
    assert policy.require_fwid
    assert policy.hardware_ids is None
    assert policy.switches is None
    assert policy.ocsp == OcspPolicy()
    assert policy.nras is None


def test_every_key_is_read() -> None:
    policy = _parse(
        textwrap.dedent(f"""
        count = 2
        architectures = ["HOPPER", "BLACKWELL"]
        driver_versions = ["590.12", "580.159.03"]
        vbios_versions = ["96.00.A5.00.01"]
        mode = "ppcie"
        require_fwid = false
        hardware_ids = ["{"ab" * 32}", "{"cd" * 32}"]
        [switches]
        count = 1
        vbios_versions = ["96.10.73.00.01"]
        hardware_ids = ["{"ef" * 32}"]
        [ocsp]
        allow_unknown = true
        [nras]
        """)
    )
    assert policy == GpuPolicy(
        count=2,
        architectures=(Architecture.HOPPER, Architecture.BLACKWELL),
        driver_versions=("590.12", "580.159.03"),
        vbios_versions=("96.00.A5.00.01",),
        mode=Mode.PPCIE,
        require_fwid=False,
        hardware_ids=("ab" * 32, "cd" * 32),
        switches=SwitchPolicy(1, ("96.10.73.00.01",), ("ef" * 32,)),
        ocsp=OcspPolicy(allow_unknown=True),
        nras=NrasPolicy(),
    )


def _without(key: str) -> str:
    return re.sub(rf"^{key} = .*$", "", MINIMAL, flags=re.MULTILINE)


REFUSED = {
    "nothing": ("", "count: Field required.*architectures.*driver_versions.*vbios_versions"),
    **{
        f"no {key}": (_without(key), f"{key}: Field required")
        for key in ("count", "architectures", "driver_versions", "vbios_versions")
    },
    "no GPU": (MINIMAL.replace("1", "0", 1), "count"),
    "too many GPUs": (MINIMAL.replace("1", "17", 1), "count"),
    "a count of another type": (MINIMAL.replace("1", "true", 1), "count"),
    "no architecture": (MINIMAL.replace('["HOPPER"]', "[]"), "architectures"),
    "an unknown architecture": (MINIMAL.replace("HOPPER", "AMPERE"), "architectures.0"),
    "a switch as GPU": (MINIMAL.replace("HOPPER", "LS10"), "architectures names LS10, which is no GPU"),
    "no driver": (MINIMAL.replace('["590.12"]', "[]"), "driver_versions"),
    "a driver that no report can name": (MINIMAL.replace("590.12", "590.12 "), "driver_versions.0"),
    "any driver": (MINIMAL.replace("590.12", "*"), "driver_versions.0"),
    "no VBIOS": (MINIMAL.replace('["96.00.A5.00.01"]', "[]"), "vbios_versions"),
    "a VBIOS in lower case": (MINIMAL.replace("A5", "a5"), "vbios_versions.0"),
    "a VBIOS without dots": (MINIMAL.replace("96.00.A5.00.01", "9600A50001"), "vbios_versions.0"),
    "an unknown mode": (MINIMAL + 'mode = "single"', "mode"),
    "an unknown key": (MINIMAL + "rim = false", "rim: unknown member"),
    "no chip": (MINIMAL + "hardware_ids = []", "hardware_ids"),
    "a chip in upper case": (MINIMAL + f'hardware_ids = ["{"AB" * 32}"]', "hardware_ids.0"),
    "fewer chips than GPUs": (
        MINIMAL.replace("1", "2", 1) + f'hardware_ids = ["{"ab" * 32}", "{"ab" * 32}"]',
        "hardware_ids names fewer chips than the 2",
    ),
    "ppcie without switches": (PPCIE, "mode ppcie trusts switches"),
    "switches without ppcie": (MINIMAL + SWITCHES, "switches are for mode ppcie; in mode spt"),
    "switches in mode mpt": (MINIMAL + 'mode = "mpt"\n' + SWITCHES, "in mode mpt there are none"),
    "more GPUs than switches join": (PPCIE.replace("2", "9", 1) + SWITCHES, "joins at most 8 GPUs"),
    "no switch": (PPCIE + SWITCHES.replace("2", "0", 1), "switches.count"),
    "too many switches": (PPCIE + SWITCHES.replace("2", "9", 1), "switches.count"),
    "no switch BIOS": (PPCIE + SWITCHES.replace('["96.10.73.00.01"]', "[]"), "switches.vbios_versions"),
    "fewer chips than switches": (
        PPCIE + SWITCHES + f'hardware_ids = ["{"ab" * 32}"]',
        "switches.hardware_ids names fewer chips than the 2",
    ),
    "an unknown key of switches": (PPCIE + SWITCHES + "driver_versions = []", "switches.driver_versions: unknown"),
    "an unknown key of revocation": (MINIMAL + "[ocsp]\nrequired = false", "ocsp.required: unknown member"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
def test_other_rules_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        _parse(text)


def test_every_contradiction_is_told_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"architectures is empty.*driver_versions is empty.*hardware_ids names.*ppcie"
    ):
        GpuPolicy(2, (), (), ("96.00.A5.00.01",), mode=Mode.PPCIE, hardware_ids=("ab" * 32,))


@pytest.mark.parametrize("name", ["architectures", "driver_versions", "vbios_versions", "hardware_ids"])
def test_an_empty_rule_is_refused_however_it_is_made(name: str) -> None:
    members: dict[str, Any] = {
        "count": 1,
        "architectures": (Architecture.HOPPER,),
        "driver_versions": ("590.12",),
        "vbios_versions": ("96.00.A5.00.01",),
    }
    with pytest.raises(ValueError, match=f"{name} is empty"):
        GpuPolicy(**{**members, name: ()})


def test_an_empty_rule_for_switches_is_refused_however_it_is_made() -> None:
    with pytest.raises(ValueError, match=r"switches\.vbios_versions is empty"):
        GpuPolicy(1, (Architecture.HOPPER,), ("1.1",), ("x",), mode=Mode.PPCIE, switches=SwitchPolicy(1, ()))


def _documented() -> str:
    text = (attestation.gpu.policy.__doc__ or "").split("::", 1)[1].split("That measurements", 1)[0]
    return textwrap.dedent(text)


def test_the_documented_policy_is_one_with_the_defaults_that_it_names() -> None:
    documented = tomllib.loads(_documented())["gpu"]
    required = GpuPolicy(8, (Architecture.HOPPER,), ("590.12",), ("96.00.A5.00.01",))
    assert validate(_ADAPTER, documented) == required


@pytest.mark.parametrize(
    ("policy", "prefix"),
    [(GpuPolicy, ""), (SwitchPolicy, "switches"), (OcspPolicy, "ocsp")],
    ids=["gpu", "gpu.switches", "gpu.ocsp"],
)
def test_every_key_is_documented(policy: type, prefix: str) -> None:
    text = re.sub(r"^# (?=\[|\w+ = )", "", _documented(), flags=re.MULTILINE)
    documented: Any = tomllib.loads(text)["gpu"]
    documented = documented[prefix] if prefix else documented
    assert {field.name for field in fields(policy)} == set(documented)
