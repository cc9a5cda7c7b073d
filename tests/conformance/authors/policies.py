"""What can be used as a policy, and what not? `policies.json`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tests.conformance.authors.common import accepted, refused

ABOUT: Final = "Policies, as the text of their files. See README.md."
OK: Final = accepted()
WRONG: Final = refused("unusable")

_48: Final = "ab" * 48
_SNP: Final = f"""version = 1
[snp]
measurements = ["{_48}"]
[[snp.products]]
name = "Milan"
min_tcb = {{ bootloader = 4, tee = 0, snp = 24, microcode = 219 }}
"""
_TDX: Final = f"""version = 1
[[tdx.hardware]]
mr_td = "{_48}"
rtmr0 = "{_48}"
[[tdx.code]]
rtmr1 = "{_48}"
rtmr2 = "{_48}"
"""
_INSECURE: Final = "version = 1\n[insecure]\naccept = true\n"
_MODEL: Final = f'[[models]]\nid = "m"\nweights_sha256 = ["{"ab" * 32}"]\n'
_ROOT: Final = f'[insecure_roots]\nsnp = ["{"cd" * 32}"]\n'
_RELEASE: Final = '[release]\nversion = 7\nexpires = "2027-01-31T00:00:00Z"\n'


def _usable() -> Iterator[tuple[str, str]]:
    yield "an AMD machine", _SNP
    yield "an Intel machine", _TDX
    yield "either machine", _SNP + _TDX.removeprefix("version = 1\n")
    yield "development evidence", _INSECURE
    yield "a model", _SNP + _MODEL
    yield "a release", _SNP + _RELEASE
    yield "another root", _SNP + _ROOT
    yield "comments and space", "# a policy\n\n" + _SNP
    yield "API keys that are asked for", _SNP + "[statement]\nrequire_api_keys = true\n"
    yield "chips by name", _SNP.replace("[snp]\n", f'[snp]\nchip_ids = ["{"cd" * 64}"]\n')
    yield "arguments by component", _SNP + '[statement]\narguments = { vllm = ["max-num-seqs=8"] }\n'


def _in_snp(line: str) -> str:
    return _SNP.replace("[snp]\n", f"[snp]\n{line}\n")


def _in_tdx(line: str) -> str:
    return f"version = 1\n[tdx]\n{line}\n" + _TDX.removeprefix("version = 1\n")


def _unusable() -> Iterator[tuple[str, str]]:
    yield "nothing", ""
    yield "no evidence", "version = 1\n"
    yield "no version", _SNP.removeprefix("version = 1\n")
    yield "another version", _SNP.replace("version = 1", "version = 2")
    yield "a version that is a fraction", _SNP.replace("version = 1", "version = 1.0")
    yield "a table that nobody knows", _SNP + "[more]\n"
    yield "a key that nobody knows", _in_snp("more = 1")
    yield "a key given twice", _SNP.replace("measurements", f'measurements = ["{_48}"]\nmeasurements')
    yield "a file that is cut", _SNP[:-4]
    yield "development evidence that is not accepted", _INSECURE.replace("true", "false")
    yield "development evidence beside a machine", _SNP + "[insecure]\naccept = true\n"
    yield "development evidence and another root", _INSECURE + _ROOT
    yield "a GPU without a machine", "version = 1\n[gpu]\ncount = 1\n"
    yield "no measurement", _SNP.replace(f'["{_48}"]', "[]")
    yield "a measurement in capitals", _SNP.replace(_48, _48.upper())
    yield "a measurement that is too short", _SNP.replace(_48, _48[2:])
    yield "a product that is unknown", _SNP.replace("Milan", "Rome")
    yield "no product", _SNP[: _SNP.index("[[snp.products]]")]
    yield "a product named twice", _SNP + _SNP[_SNP.index("[[snp.products]]") :]
    yield "Milan with a part that it does not have", _SNP.replace("{ bootloader", "{ fmc = 1, bootloader")
    yield "Turin without a part that it has", _SNP.replace("Milan", "Turin")
    yield "a part of a TCB beyond 255", _SNP.replace("219", "256")
    yield "a privilege level that there is not", _in_snp("vmpl = 4")
    yield "chips that are none", _in_snp("chip_ids = []")
    yield "families that nobody signs for", _in_snp(f'family_ids = ["{"ab" * 16}"]')
    yield "a revocation list that may be missing, and stale", _in_snp("allow_missing_crl = true\nallow_stale_crl_s = 5")
    yield "a bit of the platform that is unknown", _in_snp('require_platform = ["magic"]')
    yield "debugging that is allowed", _in_snp("allow_debug = true")
    yield "firmware that is no version", _in_snp('min_firmware = "1"')
    yield "no code", _TDX[: _TDX.index("[[tdx.code]]")]
    yield "no hardware", "version = 1\n" + _TDX[_TDX.index("[[tdx.code]]") :]
    yield "a register of zeros", _TDX.replace(f'rtmr1 = "{_48}"', f'rtmr1 = "{"00" * 48}"')
    yield "no RTMR0", _TDX.replace(f'rtmr0 = "{_48}"\n', "")
    yield "an RTMR0 that is ignored", _in_tdx("allow_any_rtmr0 = true")
    yield "attributes with debugging", _in_tdx('td_attributes = ["0100001000000000"]')
    yield "a TCB status that is unknown", _in_tdx('tcb_statuses = ["UpToDate", "Fine"]')
    yield "a TCB status that is revoked", _in_tdx('tcb_statuses = ["UpToDate", "Revoked"]')
    yield "an advisory that is none", _in_tdx('advisories = ["SA-00001"]')
    yield "a model without digests", _SNP + '[[models]]\nid = "m"\nweights_sha256 = []\n'
    yield "a model named twice", _SNP + _MODEL + _MODEL
    yield "a root of evidence that is not accepted", _TDX + _ROOT
    yield "no root", _SNP + "[insecure_roots]\n"
    yield "a lifetime of zero", _SNP + "[statement]\nmax_lifetime_s = 0\n"
    yield "a lifetime that is text", _SNP + '[statement]\nmax_lifetime_s = "60"\n'
    yield "nobody who may hand out evidence", _SNP + "[statement]\nevidence_from = []\n"
    yield "a release without an end", _SNP + "[release]\nversion = 7\n"
    yield "a release whose end is a date of TOML", _SNP + _RELEASE.replace('"', "")
    yield "a release whose end is in no time zone", _SNP + _RELEASE.replace("Z", "")
    yield "a release of version 0", _SNP + _RELEASE.replace("= 7", "= 0")


def figures() -> dict[str, Any]:
    """What stands in the file."""
    cases = [*((*each, OK) for each in _usable()), *((*each, WRONG) for each in _unusable())]
    return {
        "format": 1,
        "about": ABOUT,
        "vectors": [
            {"id": f"policy/{number:02}", "says": says, "lines": text.splitlines(), "expect": expect}
            for number, (says, text, expect) in enumerate(cases, 1)
        ],
    }
