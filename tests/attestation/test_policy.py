"""A policy is read strictly, cannot be empty, and is documented key by key."""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest

import attestation.policy
from attestation.errors import PolicyError
from attestation.policy import (
    MAX_POLICY_BYTES,
    InsecurePolicy,
    ModelPolicy,
    Policy,
    StatementPolicy,
    parse_policy,
    read_policy,
)
from attestation.types import EvidenceKind
from tests.attestation.samples import DEFAULT_POLICY

ROOT = Path(__file__).parents[2]
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
        log_levels = ["debug"]
        allow_attached_backend = true
        allow_request_log = true
        allow_options = ["allow_a"]
        allow_plugins = ["p"]
        require_api_keys = true
        backend_arguments = ["device=cpu"]
        [[models]]
        id = "m"
        weights_sha256 = ["{"ab" * 32}"]
        """)
    )
    assert policy.statement == StatementPolicy(60, ("debug",), True, True, ("allow_a",), ("p",), True, ("device=cpu",))
    assert policy.models == (ModelPolicy("m", ("ab" * 32,)),)


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
    "a date": (MINIMAL + "[statement]\nmax_lifetime_s = 2026-01-01", "dates"),
    "a model without digests": (MINIMAL + '[[models]]\nid = "m"\nweights_sha256 = []', "models.0.weights_sha256"),
    "a digest that is none": (MINIMAL + '[[models]]\nid = "m"\nweights_sha256 = ["ab"]', "models.0.weights_sha256.0"),
    "a model named twice": (MINIMAL + f'[[models]]\nid = "m"\nweights_sha256 = ["{"ab" * 32}"]\n' * 2, "named twice"),
    "no TOML": ("version = ", "policy: "),
    "a key named twice": ("version = 1\nversion = 1", "policy: "),
    "an endless number": ("version = " + "9" * 5000, "policy: "),
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
        replace(DEFAULT_POLICY, insecure=None)


class _LaterPolicy(Policy):
    """A policy as it is once there is a second kind of evidence."""

    @property
    def kinds(self) -> frozenset[Any]:
        return frozenset({EvidenceKind.INSECURE, "snp"})


def test_a_policy_that_names_insecure_names_nothing_else() -> None:
    with pytest.raises(PolicyError, match="`insecure` beside other evidence"):
        _LaterPolicy(InsecurePolicy(True), StatementPolicy(), (), "")


def test_every_kind_of_evidence_has_its_table_in_the_policy() -> None:
    assert set(EvidenceKind) <= {field.name for field in fields(Policy)}


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
    for table, of in (("insecure", InsecurePolicy), ("statement", StatementPolicy), ("models", ModelPolicy)):
        yield from (f"{table}.{field.name}" for field in fields(of))


@pytest.mark.parametrize("key", list(_keys()))
def test_every_key_is_in_the_docs(key: str) -> None:
    assert f"| `{key}` |" in (ROOT / "docs/policy.md").read_text()


def test_the_docs_name_no_key_that_there_is_not() -> None:
    assert set(re.findall(r"^\| `([a-z0-9_.]+)` \|", (ROOT / "docs/policy.md").read_text(), re.MULTILINE)) == set(
        _keys()
    )


def test_the_development_policy_is_insecure_and_otherwise_the_default() -> None:
    policy = read_policy(ROOT / "examples/insecure-policy.toml")
    assert policy == replace(_parse(MINIMAL), digest=policy.digest)
