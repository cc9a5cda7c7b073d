"""A policy is read strictly, cannot be empty, and is documented key by key."""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import attestation.policy
from attestation.collateral.roots import VENDOR_ROOTS, Roots
from attestation.errors import PolicyError
from attestation.evidence import KINDS
from attestation.insecure import InsecurePolicy
from attestation.policy import (
    _TABLE_OF_ROOT,
    MAX_POLICY_BYTES,
    InsecureRoots,
    ModelPolicy,
    Policy,
    Release,
    StatementPolicy,
    parse_policy,
    read_policy,
)
from attestation.types import EvidenceKind, EvidenceSource
from core.program.validation import Hex
from tests.attestation.policies import SNP, release
from tests.attestation.samples import DEFAULT_POLICY
from tests.places import ROOT

MINIMAL = "version = 1\n[insecure]\naccept = true\n"


def _parse(text: str) -> Policy:
    return parse_policy(text.encode())


def test_a_minimal_policy_has_the_defaults() -> None:
    policy = _parse(MINIMAL)
    assert policy.statement == StatementPolicy()
    assert policy.models == ()
    assert policy.is_insecure
    assert policy.kinds == {EvidenceKind.INSECURE}


def test_the_digest_is_of_the_file() -> None:
    assert _parse("version=1\ninsecure.accept=true").digest == (
        "c2ada38701d6177d668f573b78963d06f6679da6d3b126254b616a4d7e9ff14e"
    )


def test_every_key_is_read() -> None:
    policy = _parse(
        MINIMAL
        + textwrap.dedent(f"""
        [statement]
        max_lifetime_s = 60
        max_evidence_age_s = 61
        log_levels = ["debug"]
        allow_attached = ["vllm"]
        allow_request_log = true
        allow_options = ["allow_a"]
        allow_plugins = ["p"]
        require_api_keys = true
        require_pq = true
        evidence_from = ["coco"]
        arguments = {{ faster-whisper = ["device=cpu"] }}
        [[models]]
        id = "m"
        weights_sha256 = ["{"ab" * 32}"]
        aliases = ["n"]
        """)
    )
    assert policy.statement == StatementPolicy(
        60,
        61,
        ("debug",),
        ("vllm",),
        True,
        ("allow_a",),
        ("p",),
        True,
        True,
        (EvidenceSource.COCO,),
        {"faster-whisper": ("device=cpu",)},
    )
    assert policy.models == (ModelPolicy("m", ("ab" * 32,), ("n",)),)


_REFUSED = {
    "an empty file": ("", "version: Field required.*names no evidence"),
    "no evidence": ("version = 1", "names no evidence"),
    "insecure, not accepted": ("version = 1\n[insecure]\naccept = false", "insecure.accept: may only be true"),
    "insecure by accident": ("version = 1\n[insecure]", "insecure.accept: Field required"),
    "insecure by a number": ("version = 1\n[insecure]\naccept = 1", "insecure.accept"),
    "another version": (MINIMAL.replace("1", "2"), "version"),
    "no version": ("[insecure]\naccept = true", "version: Field required"),
    "an unknown table": (MINIMAL + "[snpp]", "snpp: unknown member"),
    "an unknown key": (MINIMAL + "[statement]\nallow_everything = true", "statement.allow_everything: unknown member"),
    "a lifetime of nothing": (MINIMAL + "[statement]\nmax_lifetime_s = 0", "statement.max_lifetime_s"),
    "a lifetime with a fraction": (MINIMAL + "[statement]\nmax_lifetime_s = 1.5", "statement.max_lifetime_s"),
    "a word for a list": (MINIMAL + '[statement]\nlog_levels = "info"', "statement.log_levels"),
    "an unknown source of evidence": (MINIMAL + '[statement]\nevidence_from = ["agent"]', "statement.evidence_from.0"),
    "no source of evidence": (
        MINIMAL + "[statement]\nevidence_from = []",
        "statement.evidence_from: must not be empty",
    ),
    "a date": (MINIMAL + "[statement]\nmax_lifetime_s = 2026-01-01", "dates"),
    "a model without digests": (MINIMAL + '[[models]]\nid = "m"\nweights_sha256 = []', "models.0.weights_sha256"),
    "a digest that is none": (MINIMAL + '[[models]]\nid = "m"\nweights_sha256 = ["ab"]', "models.0.weights_sha256.0"),
    "a model named twice": (MINIMAL + f'[[models]]\nid = "m"\nweights_sha256 = ["{"ab" * 32}"]\n' * 2, "named twice"),
    "no TOML": ("version = ", "policy: not TOML"),
    "a key named twice": ("version = 1\nversion = 1", "policy: not TOML"),
    "an endless number": ("version = " + "9" * 5000, "policy: not TOML"),
    "a bottomless array": ("version = " + "[" * 100_000, "nested too deeply"),
    "a file too long": ("#" * (MAX_POLICY_BYTES + 1), "longer than"),
}


@pytest.mark.parametrize(("text", "fault"), _REFUSED.values(), ids=_REFUSED.keys())
def test_a_faulty_policy_is_refused(text: str, fault: str) -> None:
    with pytest.raises(PolicyError, match=f"(?s)^policy: .*{fault}" if not fault.startswith("policy") else fault):
        _parse(text)


def test_a_file_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(PolicyError, match="UTF-8"):
        parse_policy(b"\xff")


def test_a_mistake_is_told_by_its_place_and_not_by_its_text() -> None:
    with pytest.raises(PolicyError, match="not TOML at line 2, column") as refusal:
        _parse("version = 1\nsecret = canary")
    assert "canary" not in str(refusal.value)


def test_every_fault_is_told_at_once() -> None:
    text = 'version = 2\nsurplus = 1\n[statement]\nlog_levels = 7\n[[models]]\nid = ""\n'
    with pytest.raises(PolicyError) as refusal:
        _parse(text)
    message = str(refusal.value)
    places = ["version:", "surplus:", "statement.log_levels:", "models.0.id:", "models.0.weights_sha256:"]
    assert all(place in message for place in places), message
    assert "names no evidence" in message


def test_an_empty_policy_cannot_be_built() -> None:
    with pytest.raises(PolicyError, match="names no evidence"):
        replace(DEFAULT_POLICY, machine={})


# Evidence of machines and devices.

TDX = f"""[[tdx.hardware]]
mr_td = "{"ab" * 48}"
rtmr0 = "{"ab" * 48}"
[[tdx.code]]
rtmr1 = "{"ab" * 48}"
rtmr2 = "{"ab" * 48}"
"""
GPU = """[gpu]
count = 1
architectures = ["HOPPER"]
driver_versions = ["590.12"]
vbios_versions = ["96.00.A5.00.01"]
"""


def test_a_policy_may_name_both_kinds_of_machine_and_their_devices() -> None:
    policy = _parse(SNP + TDX + GPU)
    assert policy.kinds == {EvidenceKind.SNP, EvidenceKind.TDX}
    assert policy.machine == {**_parse(SNP).machine, **_parse("version = 1\n" + TDX).machine}
    assert policy.gpu is not None
    assert policy.gpu.count == 1
    assert not policy.is_insecure


def _roots(*names: str) -> str:
    return "[insecure_roots]\n" + "".join(f'{name} = ["{"cd" * 32}"]\n' for name in names)


_CONTRADICTORY = {
    "devices without a machine": ("version = 1\n" + GPU, "names no evidence.*`gpu` speaks of the devices"),
    "insecure beside a machine": (MINIMAL + SNP.removeprefix("version = 1\n"), "`insecure` beside other evidence"),
    "insecure beside another machine": (MINIMAL + TDX, "`insecure` beside other evidence"),
    "insecure beside devices": (MINIMAL + GPU, "`insecure` beside other evidence"),
    "insecure beside insecure roots": (MINIMAL + _roots("snp"), "`insecure` beside other evidence"),
    "no insecure root": (SNP + "[insecure_roots]", "insecure_roots: names no root"),
    "a root of nothing": (SNP + "[insecure_roots]\nsnp = []", "insecure_roots.snp: "),
    "a root that is none": (SNP + '[insecure_roots]\nsnp = ["AB"]', "insecure_roots.snp.0: "),
    "a root of an unknown kind": (SNP + _roots("snp", "sgx"), "insecure_roots.sgx: unknown member"),
    "a root of a machine that is not named": (SNP + _roots("tdx"), "insecure_roots.tdx: the policy has no table `tdx`"),
    "a root of devices that are not named": (SNP + _roots("gpu_rim"), "insecure_roots.gpu_rim: .* no table `gpu`"),
    "roots that are no table": (SNP.replace("version = 1", "version = 1\ninsecure_roots = 7"), "insecure_roots: "),
    "a contradiction within a table": (SNP.replace("Milan", "Turin"), "snp: the min_tcb of Turin must name fmc"),
    "a release without its end": (SNP + "[release]\nversion = 1", "release.expires: Field required"),
    "a release without a version": (SNP + '[release]\nexpires = "2027-01-01T00:00:00Z"', "release.version: Field"),
    "a release of version nothing": (SNP + release(0), "release.version: "),
    "a release of a huge version": (SNP + release(2**53), "release.version: "),
    "a day": (SNP + release(expires="2027-01-01"), "release.expires: must be a time in UTC"),
    "a local time": (SNP + release(expires="2027-01-01T00:00:00+01:00"), "release.expires: must be a time in UTC"),
    "a time without a zone": (SNP + release(expires="2027-01-01T00:00:00"), "release.expires: must be a time in UTC"),
    "a fraction of a second": (SNP + release(expires="2027-01-01T00:00:00.5Z"), "release.expires: must be a time"),
    "a day that does not exist": (SNP + release(expires="2027-02-30T00:00:00Z"), "release.expires: day is out"),
    "a time in other digits": (SNP + release(expires="\uff12027-01-01T00:00:00Z"), "release.expires: must be a time"),
    "an evidence that never ages": (MINIMAL + "[statement]\nmax_evidence_age_s = 0", "statement.max_evidence_age_s"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "fault"), _CONTRADICTORY.values(), ids=_CONTRADICTORY.keys())
def test_a_contradictory_policy_is_refused(text: str, fault: str) -> None:
    with pytest.raises(PolicyError, match=f"(?s)^policy: .*{fault}"):
        _parse(text)


def test_faults_of_keys_and_of_tables_are_told_in_one_message() -> None:
    text = "version = 2\n" + GPU.replace("count = 1", "count = 0") + _roots("tdx") + "[release]\nversion = 0"
    with pytest.raises(PolicyError) as refusal:
        _parse(text)
    for place in ("version:", "gpu.count:", "release.version:", "release.expires:", "names no evidence", "`gpu` speaks",
                  "insecure_roots.tdx:"):  # fmt: skip
        assert place in str(refusal.value)


def test_contradictions_are_refused_however_the_policy_was_made() -> None:
    policy = _parse(SNP + GPU + _roots("snp", "gpu_rim"))
    contradictory: tuple[dict[str, Any], ...] = (
        {"machine": {}},
        {"machine": {EvidenceKind.TDX: policy.machine[EvidenceKind.SNP]}},
        {"gpu": None},
        {"machine": {**policy.machine, EvidenceKind.INSECURE: InsecurePolicy(True)}},
        {"insecure_roots": InsecureRoots()},
    )
    for changes in contradictory:
        with pytest.raises(PolicyError):
            replace(policy, **changes)


def test_the_vendors_roots_are_believed_unless_others_are_named() -> None:
    assert _parse(SNP + GPU).roots == VENDOR_ROOTS
    assert not _parse(SNP + GPU).has_insecure_roots
    policy = _parse(SNP + GPU + _roots("snp", "gpu_rim"))
    other = frozenset({"cd" * 32})
    assert policy.roots == replace(VENDOR_ROOTS, snp=other, gpu_rim=other)
    assert policy.has_insecure_roots
    assert not policy.is_insecure


def test_every_root_can_be_replaced_and_has_its_table() -> None:
    names = {field.name for field in fields(Roots)}
    assert names == {field.name for field in fields(InsecureRoots)} == set(_TABLE_OF_ROOT)
    assert set(_TABLE_OF_ROOT.values()) <= {*KINDS, "gpu"}


def test_a_release_has_an_aware_end() -> None:
    policy = _parse(SNP + release(7, "2027-01-31T23:59:59Z"))
    assert policy.release == Release(7, datetime(2027, 1, 31, 23, 59, 59, tzinfo=UTC))


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="No such file"):
        read_policy(tmp_path / "none.toml")


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(MINIMAL)
    assert read_policy(tmp_path / "policy.toml") == _parse(MINIMAL)


def _defaults() -> dict[str, object]:
    given = {field.name: field.default for field in fields(StatementPolicy) if field.default is not MISSING}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def _examples() -> Iterator[tuple[str, str]]:
    yield (
        "docstring",
        textwrap.dedent((attestation.policy.__doc__ or "").split("::\n", 1)[1].split("\nA policy that")[0]),
    )
    yield "docs/policy.md", re.findall(r"```toml\n(.*?)```", (ROOT / "docs/policy.md").read_text(), re.DOTALL)[0]


@pytest.mark.parametrize(("place", "example"), list(_examples()), ids=[place for place, _ in _examples()])
def test_the_defaults_that_are_written_down_are_those_of_the_code(place: str, example: str) -> None:
    documented = tomllib.loads(example)["statement"]
    # No line stands for None, so that one default is a line that is commented out.
    assert documented == {name: value for name, value in _defaults().items() if value is not None}
    assert all(f"# {name} = " in example for name, value in _defaults().items() if value is None)


def _keys() -> Iterator[str]:
    yield "version"
    for kind, rules in KINDS.items():
        yield from _keys_of(kind, rules.policy)
    for table, rules in get_type_hints(Policy).items():
        if table not in ("machine", "digest"):
            yield from _keys_of(table, rules)


def _keys_of(place: str, kind: Any) -> Iterator[str]:
    """The keys of a table, of the tables in it, and of arrays of them."""
    if is_dataclass(kind):
        for name, inner in get_type_hints(kind).items():
            yield from _keys_of(f"{place}.{name}", inner)
    elif tables := [part for part in get_args(kind) if is_dataclass(part) or any(map(is_dataclass, get_args(part)))]:
        yield from _keys_of(place, tables[0])
    else:
        yield place


@pytest.mark.parametrize("key", list(_keys()))
def test_every_key_is_in_the_docs(key: str) -> None:
    assert f"| `{key}` |" in (ROOT / "docs/policy.md").read_text()


def test_the_docs_name_no_key_that_there_is_not() -> None:
    assert set(re.findall(r"^\| `([a-z0-9_.]+)` \|", (ROOT / "docs/policy.md").read_text(), re.MULTILINE)) == set(
        _keys()
    )


def _policies_in_the_docs() -> Iterator[Any]:
    for page in (ROOT / "docs/policy.md", *sorted((ROOT / "docs/clouds").glob("*.md"))):
        for number, text in enumerate(re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)):
            yield pytest.param(text, id=f"{page.stem} {number}")


@pytest.mark.parametrize("text", list(_policies_in_the_docs()))
def test_the_policies_in_the_docs_can_be_used(text: str) -> None:
    assert _parse(text).kinds


def _digits(kind: Any) -> Iterator[Hex]:
    """The hexadecimal forms in an annotation."""
    for part in get_args(kind):
        yield from (part,) if isinstance(part, Hex) else _digits(part)


def _hexadecimal_keys(place: str, kind: Any) -> Iterator[tuple[str, Hex]]:
    if isinstance(kind, type) and is_dataclass(kind):
        for name, inner in get_type_hints(kind, include_extras=True).items():
            yield from _hexadecimal_keys(f"{place}.{name}", inner)
    elif digits := list(_digits(kind)):
        yield place, digits[0]
    else:
        for part in get_args(kind):
            yield from _hexadecimal_keys(place, part)


@pytest.mark.parametrize(
    ("key", "digits"),
    [
        *(found for kind, rules in KINDS.items() for found in _hexadecimal_keys(kind, rules.policy)),
        *(
            found
            for table, rules in get_type_hints(Policy, include_extras=True).items()
            for found in _hexadecimal_keys(table, rules)
        ),
    ],
)
def test_the_docs_say_how_many_digits_a_key_has(key: str, digits: Hex) -> None:
    (row,) = re.findall(rf"^\| `{key}` \| (.*?) \|", (ROOT / "docs/policy.md").read_text(), re.MULTILINE)
    assert row.removeprefix("list of ") == f"{' or '.join(map(str, reversed(digits.lengths)))} hex digits"


def test_the_development_policy_is_insecure_and_otherwise_the_default() -> None:
    policy = read_policy(ROOT / "examples/insecure-policy.toml")
    assert policy == replace(_parse(MINIMAL), digest=policy.digest)
