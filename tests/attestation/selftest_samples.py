"""Makes the data of `sottovoce-attest selftest`: machines that must be accepted, and what was done to them.

::

    python -m tests.attestation.selftest_samples          # writes attestation/selftest.json anew

All keys are made for one run and forgotten, so that nobody can make more evidence under the roots in the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha512
from itertools import pairwise
from pathlib import Path
from typing import Any

from cryptography.x509 import ocsp as x509_ocsp

from attestation import selftest
from attestation.collateral.roots import Roots
from attestation.gpu import ocsp
from attestation.gpu.abi import SIGNATURE_BYTES
from attestation.gpu.chain import common_name
from attestation.gpu.evidence import Architecture, DeviceAnswer, encode_devices
from attestation.selftest import SUITE, Case, Gpu, Piece, Sample, Suite, flipped
from attestation.snp.abi import parse_report
from attestation.snp.collateral import vek_key
from attestation.statement import ModelIdentity, encode_statement, gpu_nonce, report_data
from attestation.types import CollateralKey, DeviceEvidence, EvidenceKind, Nonce, ReportData, StatementBytes
from core.channel.keyconfig import GatewayKey, KeyConfig
from tests.attestation.gpu import forge
from tests.attestation.gpu.forge import GOOD_MEASUREMENTS, Machine, gpu_fields, manifest_key
from tests.attestation.gpu.forge_rim import AUTHORITY, ocsp_answer
from tests.attestation.samples import (
    INSECURE_PREFIX,
    KEY,
    MEASURED,
    NONCE,
    NOW,
    OTHER_NONCE,
    RECOGNISER,
    STATEMENT,
    hearing,
    statement_with,
)
from tests.attestation.snp.forge import ForgedAmd
from tests.attestation.tdx.forge import ForgedIntel, tcb_level
from tests.pki import Party

FILE = Path(selftest.__file__).with_name(selftest.DATA_FILE)

SNP, SNP_GPUS, TDX = "SEV-SNP", "SEV-SNP with two GPUs", "TDX"

AMD = ForgedAmd()
INTEL = ForgedIntel()
NVIDIA = Machine.build(gpus=2)
ROOTS = Roots(AMD.roots.snp, INTEL.roots.tdx, forge.ROOTS.gpu_device, forge.ROOTS.gpu_rim)

SMALLER = ModelIdentity("openai/whisper-tiny", (), "cd" * 32)
"""Accepted too, by its own name."""
HONEST = encode_statement(statement_with(**MEASURED))
NO_DEVICES = DeviceEvidence(b"")


@dataclass
class Blobs:
    """Byte strings under their names."""

    named: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, data: bytes) -> str:
        assert self.named.setdefault(name, data) == data, name
        return name


def build() -> Suite:
    """The whole of the data, with signatures made anew."""
    blobs = Blobs()
    blobs.add("statement", HONEST)
    answers = _answers()
    return Suite(
        version=1,
        policies=_policies(),
        samples=_samples(blobs, answers),
        cases=(
            *_document_cases(blobs),
            *_statement_cases(blobs),
            *_snp_cases(blobs),
            *_snp_endorsement_cases(blobs),
            *_gpu_cases(blobs, answers),
            *_gpu_endorsement_cases(blobs),
            *_tdx_cases(blobs),
            *_tdx_endorsement_cases(blobs),
        ),
        gpus={name: _gpu(blobs, name, answer) for name, answer in answers.items()},
        collateral=tuple(Piece(key.kind, key.name, blobs.add(*named)) for key, named in _collateral().items()),
        blobs=blobs.named,
    )


def encode(suite: Suite) -> bytes:
    """The data file, without what is left at its default."""
    return (json.dumps(SUITE.dump_python(suite, mode="json", exclude_defaults=True), indent=1) + "\n").encode()


def _samples(blobs: Blobs, answers: Mapping[str, DeviceAnswer]) -> tuple[Sample, ...]:
    alone = Sample(
        SNP,
        policy="snp",
        judged_at=NOW,
        nonce=NONCE,
        nonces=(NONCE,),
        kind=EvidenceKind.SNP,
        statement="statement",
        report=blobs.add("snp report", AMD.report(_bound())),
    )
    devices = encode_devices([answers["GPU 0"], answers["GPU 1"]])
    accompanied = replace(
        alone,
        name=SNP_GPUS,
        policy="snp and gpu",
        report=blobs.add("snp report over GPUs", AMD.report(_bound(devices=devices))),
        gpus=("GPU 0", "GPU 1"),
    )
    quote = blobs.add("tdx quote", INTEL.quote(_bound()))
    return alone, accompanied, replace(alone, name=TDX, policy="tdx", kind=EvidenceKind.TDX, report=quote)


def _bound(
    statement: StatementBytes = HONEST, devices: DeviceEvidence = NO_DEVICES, nonces: tuple[Nonce, ...] = (NONCE,)
) -> ReportData:
    return report_data(nonces, statement, devices)


# Policies.


def _policies() -> dict[str, tuple[str, ...]]:
    tables = {"snp": _snp_rules(), "tdx": _tdx_rules(), "snp and gpu": (*_snp_rules(), *_gpu_rules())}
    of = {"snp": ("snp",), "tdx": ("tdx",), "snp and gpu": ("snp", "gpu_device", "gpu_rim")}
    whole = {name: ("version = 1", *rules, *_engine_rules()) for name, rules in tables.items()}
    return {
        **{name: (*rules, *_roots(*of[name])) for name, rules in whole.items()},
        "snp, AMD's own root": whole["snp"],
        "tdx, Intel's own root": whole["tdx"],
        "snp and gpu, NVIDIA's own roots": (*whole["snp and gpu"], *_roots("snp")),
    }


def _roots(*kinds: str) -> tuple[str, ...]:
    return ("[insecure_roots]", *(f"{kind} = {_array(sorted(getattr(ROOTS, kind)))}" for kind in kinds))


def _engine_rules() -> tuple[str, ...]:
    (model,) = STATEMENT.models
    return (
        "[statement]",
        "require_api_keys = true",
        f"arguments = {{ {RECOGNISER.name} = {_array(RECOGNISER.arguments)} }}",
        "[[models]]",
        f"id = {json.dumps(model.id)}",
        f"weights_sha256 = {_array([model.weights_sha256])}",
        "[[models]]",
        f"id = {json.dumps(SMALLER.id)}",
        f"weights_sha256 = {_array([SMALLER.weights_sha256])}",
    )


def _snp_rules() -> tuple[str, ...]:
    (product,) = AMD.policy().products
    tcb = product.min_tcb
    least = f"bootloader = {tcb.bootloader}, tee = {tcb.tee}, snp = {tcb.snp}, microcode = {tcb.microcode}"
    return (
        "[snp]",
        f"measurements = {_array(AMD.policy().measurements)}",
        "[[snp.products]]",
        f"name = {json.dumps(product.name)}",
        f"min_tcb = {{ {least} }}",
    )


def _gpu_rules() -> tuple[str, ...]:
    policy = NVIDIA.policy
    return (
        "[gpu]",
        f"count = {policy.count}",
        f"architectures = {_array(policy.architectures)}",
        f"driver_versions = {_array(policy.driver_versions)}",
        f"vbios_versions = {_array(policy.vbios_versions)}",
    )


def _tdx_rules() -> tuple[str, ...]:
    policy = INTEL.policy()
    (hardware,), (code,) = policy.hardware, policy.code
    return (
        "[tdx]",
        f"mr_seam = {_array(policy.mr_seam or ())}",
        f"min_tcb_evaluation_data_number = {policy.min_tcb_evaluation_data_number}",
        f"platform_instance_ids = {_array(policy.platform_instance_ids or ())}",
        "[[tdx.hardware]]",
        f'mr_td = "{hardware.mr_td}"',
        f'rtmr0 = "{hardware.rtmr0}"',
        "[[tdx.code]]",
        f'rtmr1 = "{code.rtmr1}"',
        f'rtmr2 = "{code.rtmr2}"',
    )


def _array(values: Sequence[str]) -> str:
    return json.dumps(list(values))


# Cases. Those in tables are what the owner of a machine can do: everything is validly signed.


def _swapped(blobs: Blobs, sample: str, of: str, name: str, *refused_by: str, data: bytes) -> Case:
    """A case in which `data` stands in place of the blob `of`."""
    return Case(name, sample, refused_by, instead={of: blobs.add(f"{of}: {name}", data)})


def _document_cases(blobs: Blobs) -> list[Case]:
    """What anyone on the way can do, whatever vouches for the machine."""
    anyone = blobs.add("development evidence", INSECURE_PREFIX + _bound())
    return [
        _swapped(blobs, SNP, "statement", "a key in the statement was swapped", "binding", data=_other_keys()),
        Case("the statement cannot be read", SNP, ("document",), flips={"statement": (0,)}),
        Case("it answers another nonce than ours (a replay)", SNP, ("nonce",), nonce=OTHER_NONCE),
        Case("our nonce was added to a replay", SNP, ("binding",), nonce=OTHER_NONCE, nonces=(NONCE, OTHER_NONCE)),
        Case("its statement expired an hour ago", SNP, ("lifetime",), judged_at=NOW + timedelta(hours=2)),
        Case(
            "development evidence, which anyone can make",
            SNP,
            ("evidence kind",),
            kind=EvidenceKind.INSECURE,
            instead={"snp report": anyone},
        ),
    ]


CONFESSIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "it hears through a process that it did not start": ("components", hearing(attached=True)),
    "it logs at level debug": ("log level", {"log_level": "debug"}),
    "it logs a line per request": ("request log", {"request_log": True}),
    "an insecure option is in force": ("options", {"insecure_options": ("insecure_evidence",)}),
    "its evidence is handed out by somebody unknown": ("evidence source", {"evidence_from": "insecure"}),
    "it loads other code into what hears": ("plugins", hearing(plugins=("spy",))),
    "what hears was started with other arguments": ("arguments", hearing(arguments=("log=all",))),
    "something else hears too": ("arguments", {"components": (RECOGNISER, replace(RECOGNISER, name="spy"))}),
    "what hears loaded other model weights": (
        "models",
        hearing(models=(replace(RECOGNISER.models[0], weights_sha256="00" * 32),)),
    ),
    "it asks for no API key": ("api keys", {"api_keys_required": False}),
    "it serves other model weights": (
        "models",
        {"models": (replace(STATEMENT.models[0], weights_sha256="00" * 32),)},
    ),
    "another model answers in its name": (
        "models",
        {"models": (replace(SMALLER, aliases=(STATEMENT.models[0].id,)),)},
    ),
    "its key is one that gives no secret": ("keys", {"ohttp_keys": (replace(KEY.config, public_key=bytes(32)),)}),
    "it offers only keys that we cannot seal to": ("keys", {"ohttp_keys": (KeyConfig(1, 0x7777, b"whatever", ()),)}),
    "its keys shall live for a year": ("lifetime", {"not_after": int((NOW + timedelta(days=365)).timestamp())}),
}
"""What an engine in measured software says of itself."""


def _statement_cases(blobs: Blobs) -> Iterator[Case]:
    for name, (check, changes) in CONFESSIONS.items():
        statement = encode_statement(statement_with(**{**MEASURED, **changes}))
        instead = {
            "statement": blobs.add(f"statement: {name}", statement),
            "snp report": blobs.add(f"snp report: {name}", AMD.report(_bound(statement))),
        }
        yield Case(name, SNP, (check,), instead=instead)


def _other_keys() -> StatementBytes:
    return encode_statement(statement_with(**MEASURED, ohttp_keys=(GatewayKey.generate(()).config,)))


_OLD, _NEWER = bytes([3, 0, 0, 0, 0, 0, 20, 200]), bytes([4, 0, 0, 0, 0, 0, 24, 220])
"""TCBs of Milan: older than the policy accepts, and newer than what the machine has committed to."""
_VERSIONS = ("current_version", "committed_version")
_OLD_FIRMWARE = dict.fromkeys(("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"), _OLD)

SNP_REPORTS: Mapping[str, tuple[tuple[str, ...], Mapping[str, int | bytes]]] = {
    "another image was launched": (("snp measurement",), {"measurement": bytes(range(48))}),
    "its host may debug it": (("snp guest policy",), {"policy": 0x20000 | 1 << 19}),
    "it may be moved to another machine": (("snp guest policy",), {"policy": 0x20000 | 1 << 18}),
    "it may share its cores with others (SMT)": (("snp guest policy",), {"policy": 0x20000 | 1 << 16}),
    "a migration agent holds it": (("snp migration",), {"report_id_ma": bytes(32)}),
    "its memory was not checked for aliases (BadRAM)": (("snp platform",), {"platform_info": 0}),
    "the report was asked for from another level": (("snp vmpl",), {"vmpl": 1}),
    "the report hides which chip signed it": (("snp signing key",), {"key_info": 2}),
    "the report is of a version that is to come": (("snp version",), {"version": 6}),
    "its firmware is old": (("snp tcb",), _OLD_FIRMWARE),
    "its firmware is of an old interface": (("snp firmware",), dict.fromkeys(_VERSIONS, bytes([0, 54, 1]))),
    "its firmware can be rolled back": (("snp provisional",), {"current_tcb": _NEWER}),
    "its firmware was rolled back": (("snp tcb order", "snp provisional"), {"committed_tcb": _NEWER}),
}
SNP_BITS = {
    "the report is of no known form": (("snp report", "binding"), 8 * 0x4C),
    "one bit of the report's signature is flipped": (("snp signature",), 8 * 0x2A0),
    "one bit of the measurement is flipped": (("snp signature", "snp measurement"), 8 * 0x90),
}


def _snp_cases(blobs: Blobs) -> Iterator[Case]:
    for name, (refused_by, fields) in SNP_REPORTS.items():
        yield _swapped(blobs, SNP, "snp report", name, *refused_by, data=AMD.report(_bound(), **fields))
    for name, (refused_by, bit) in SNP_BITS.items():
        yield Case(name, SNP, refused_by, flips={"snp report": (bit,)})
    elsewhere = "the report is another machine's, over its own keys"
    yield _swapped(blobs, SNP, "snp report", elsewhere, "binding", data=AMD.report(_bound(_other_keys())))


def _snp_endorsement_cases(blobs: Blobs) -> Iterator[Case]:
    of_other_chip = AMD.vek(AMD.report(chip_id=sha512(b"another chip").digest()))
    by_other_key = AMD.vek(AMD.report(), issuer_key="somebody's")
    stale = AMD.crl(this_update=NOW - timedelta(days=90), next_update=NOW - timedelta(days=1))
    revoking = AMD.crl(AMD.ask().serial)
    expired = AMD.vek(AMD.report(), not_after=NOW - timedelta(days=1))
    of_old_firmware = {"snp vcek": "snp vcek for old firmware"}
    yield _swapped(blobs, SNP, "snp vcek", "the VCEK is that of another chip", "snp vek identity", data=of_other_chip)
    yield _swapped(blobs, SNP, "snp vcek", "the VCEK was issued by somebody else", "snp chain", data=by_other_key)
    yield _swapped(blobs, SNP, "snp vcek", "the VCEK has expired", "snp validity", data=expired)
    yield Case("the VCEK is that of older firmware", SNP, ("snp vek tcb",), instead=of_old_firmware)
    yield Case("the VCEK is withheld", SNP, ("snp vek",), withholds=("snp vcek",))
    yield Case("the certificates above the VCEK are withheld", SNP, ("snp certificates",), withholds=("snp chain",))
    yield Case("its root is not AMD's", SNP, ("snp root",), policy="snp, AMD's own root")
    yield _swapped(blobs, SNP, "snp crl", "AMD revoked what issued the VCEK", "snp revocation", data=revoking)
    yield _swapped(blobs, SNP, "snp crl", "the revocation list is past its next update", "snp revocation", data=stale)
    yield Case("the revocation list is withheld", SNP, ("snp revocation",), withholds=("snp crl",))


_WITHOUT_MANIFESTS = ("gpu reference values", "gpu measurements", "rim revocation")

GPUS_PRESENTED: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "a GPU is missing": (("gpu count",), ("GPU 0",)),
    "all GPUs are missing": (("devices",), ()),
    "the same GPU stands there twice": (("devices distinct",), ("GPU 0", "GPU 0")),
    "a GPU's evidence is of an earlier capture": (("gpu nonce",), ("GPU 0", "GPU 1, earlier")),
    "a GPU measured what no manifest lists": (("gpu measurements",), ("GPU 0", "GPU 1, unlisted")),
    "a GPU's firmware is not what its chip certified": (("gpu firmware",), ("GPU 0", "GPU 1, other firmware")),
    "a GPU's driver is another": (("gpu driver", *_WITHOUT_MANIFESTS), ("GPU 0", "GPU 1, other driver")),
    "a GPU's VBIOS is another": (("gpu vbios", *_WITHOUT_MANIFESTS), ("GPU 0", "GPU 1, other vbios")),
    "a GPU talks over links that are in the clear": (("gpu mode",), ("GPU 0", "GPU 1, linked")),
    "a GPU is said to be of another generation": (("gpu architecture",), ("GPU 0", "GPU 1, renamed")),
    "one bit of a GPU's signature is flipped": (("gpu signature",), ("GPU 0", "GPU 1, flipped")),
}
GPU_FIELDS: Mapping[str, Mapping[str, bytes]] = {
    "GPU 1": {},
    "GPU 1, other firmware": {"FWID": bytes(range(48))},
    "GPU 1, other driver": {"DRIVER_VERSION": b"545.00\0"},
    "GPU 1, other vbios": {"VBIOS_VERSION": bytes.fromhex("0001009601000000")},
    "GPU 1, linked": {"PROTECTED_PCIE_STATUS": b"\xaa", "FEATURE_FLAG": b"\x02\0", "PDI": bytes(range(8)) * 18},
}


def _answers() -> dict[str, DeviceAnswer]:
    first, second = NVIDIA.gpus
    nonce = gpu_nonce((NONCE,), HONEST)
    answers = {name: forge.answer(second, nonce, gpu_fields(**fields)) for name, fields in GPU_FIELDS.items()}
    good = answers["GPU 1"]
    earlier = forge.answer(second, gpu_nonce((OTHER_NONCE,), HONEST), gpu_fields())
    unlisted = {**GOOD_MEASUREMENTS, forge.DRIVER_BLOCKS[0]: bytes(range(48))}
    signature = 8 * (len(good.evidence) - SIGNATURE_BYTES)
    return {
        **answers,
        "GPU 0": forge.answer(first, nonce, gpu_fields()),
        "GPU 1, earlier": replace(earlier, nonce=nonce),
        "GPU 1, unlisted": forge.answer(second, nonce, gpu_fields(), unlisted),
        "GPU 1, renamed": replace(good, arch=Architecture.BLACKWELL),
        "GPU 1, flipped": replace(good, evidence=flipped(good.evidence, (signature,))),
    }


def _gpu(blobs: Blobs, name: str, answer: DeviceAnswer) -> Gpu:
    certificate = blobs.add(f"{name.partition(',')[0]} certificate", answer.certificate)
    return Gpu(answer.arch, answer.nonce, blobs.add(f"{name} evidence", answer.evidence), certificate)


def _gpu_cases(blobs: Blobs, answers: Mapping[str, DeviceAnswer]) -> Iterator[Case]:
    for name, (refused_by, gpus) in GPUS_PRESENTED.items():
        devices = encode_devices([answers[gpu] for gpu in gpus]) if gpus else NO_DEVICES
        report = blobs.add(f"snp report: {name}", AMD.report(_bound(devices=devices)))
        yield Case(name, SNP_GPUS, refused_by, gpus=gpus, instead={"snp report over GPUs": report})
    yield Case("the evidence of its GPUs was changed afterwards", SNP_GPUS, ("binding",), gpus=("GPU 1", "GPU 0"))
    yield Case("the evidence of its GPUs was taken away", SNP_GPUS, ("binding", "devices"), gpus=())


def _gpu_endorsement_cases(blobs: Blobs) -> Iterator[Case]:
    chip, signer = NVIDIA.gpus[1].parties[1:3], AUTHORITY.parties[:2]
    of_chip, of_signer = "ocsp of GPU 1", _ocsp_name(signer[0])
    allowed = forge.measurement(forge.DRIVER_BLOCKS[0]).hex().encode()
    place = forge.MANIFESTS[manifest_key(forge.GPU_MANIFESTS[0])].index(allowed)
    yield _swapped(blobs, SNP_GPUS, of_chip, "a GPU's certificate is revoked", "gpu revocation", data=_revoked(chip))
    yield _swapped(blobs, SNP_GPUS, of_chip, "an OCSP answer is stale", "gpu revocation", data=_stale(chip))
    yield Case("nobody says whether a GPU is revoked", SNP_GPUS, ("gpu revocation",), withholds=(of_chip,))
    yield _swapped(
        blobs, SNP_GPUS, of_signer, "who signed the manifests is revoked", "rim revocation", data=_revoked(signer)
    )
    yield Case("a manifest was changed", SNP_GPUS, _WITHOUT_MANIFESTS, flips={"driver manifest": (8 * place,)})
    yield Case(
        "the roots of its GPUs are not NVIDIA's",
        SNP_GPUS,
        ("gpu certificates", "gpu revocation", *_WITHOUT_MANIFESTS),
        policy="snp and gpu, NVIDIA's own roots",
    )


def _revoked(link: Sequence[Party]) -> bytes:
    certificate, issuer = link
    return ocsp_answer(certificate.certificate, issuer, status=x509_ocsp.OCSPCertStatus.REVOKED)


def _stale(link: Sequence[Party]) -> bytes:
    certificate, issuer = link
    begin, end = NOW - timedelta(days=2), NOW - timedelta(days=1)
    return ocsp_answer(certificate.certificate, issuer, this_update=begin, next_update=end)


_LEVELS = {"tcbLevels": [tcb_level(), tcb_level("OutOfDate", pce_svn=5)]}
_SGX = (32, 39)
"""The bits of a quote that say it is of a TDX domain, and not of an enclave."""
_TDX_SIGNATURE = 8 * 636
"""The first bit, of a quote of version 4."""

TDX_QUOTES: Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {
    "its host may debug it": (
        ("tdx authenticity", "tdx td_attributes"),  # the library that verifies quotes refuses it too
        {"td_attributes": bytes.fromhex("0100001000000000")},
    ),
    "another image was booted (RTMR1)": (("tdx code",), {"rtmr1": b"\x0e" * 48}),
    "another command line was booted (RTMR2)": (("tdx code",), {"rtmr2": b"\x0e" * 48}),
    "something was measured at run time (RTMR3)": (("tdx code",), {"rtmr3": b"\x0e" * 48}),
    "its firmware is another (MRTD)": (("tdx hardware",), {"mr_td": b"\x0e" * 48}),
    "it may use other processor state (XFAM)": (("tdx xfam",), {"xfam": bytes.fromhex("ff02060000000000")}),
    "its host configured it otherwise": (("tdx mr_config_id",), {"mr_config_id": b"\x0e" * 48}),
    "the TDX module is another": (("tdx mr_seam",), {"mr_seam": b"\x0e" * 48}),
}
TDX_PLATFORMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "the TCB of its platform is out of date": ("tdx tcb status", {"pce_svn": 9}),
    "it is a machine that the policy does not name": (
        "tdx platform instance id",
        {"platform_instance_id": bytes(16)},
    ),
}


def _tdx_cases(blobs: Blobs) -> Iterator[Case]:
    for name, (refused_by, body) in TDX_QUOTES.items():
        yield _swapped(blobs, TDX, "tdx quote", name, *refused_by, data=INTEL.quote(_bound(), **body))
    for name, (check, platform) in TDX_PLATFORMS.items():
        quote = replace(INTEL, platform=platform).quote(_bound())
        yield _swapped(blobs, TDX, "tdx quote", name, check, data=quote)
    elsewhere = "the quote is another machine's, over its own keys"
    yield _swapped(blobs, TDX, "tdx quote", elsewhere, "binding", data=INTEL.quote(_bound(_other_keys())))
    yield Case("the quote is of an SGX enclave", TDX, ("tdx quote", "binding"), flips={"tdx quote": _SGX})
    flips = {"tdx quote": (_TDX_SIGNATURE,)}
    yield Case("one bit of the quote's signature is flipped", TDX, ("tdx authenticity",), flips=flips)


def _tdx_endorsement_cases(blobs: Blobs) -> Iterator[Case]:
    past = "the collateral is past its next update"
    changes = {**_LEVELS, "nextUpdate": f"{NOW - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"}
    stale = json.dumps(INTEL.members(tcb_info=changes)).encode()
    yield _swapped(blobs, TDX, "tdx collateral", past, "tdx collateral validity", data=stale)
    yield Case("the collateral is withheld", TDX, ("tdx collateral",), withholds=("tdx collateral",))
    yield Case("its root is not Intel's", TDX, ("tdx root",), policy="tdx, Intel's own root")


# Collateral.


def _collateral() -> dict[CollateralKey, tuple[str, bytes]]:
    """Each piece under the name of its blob."""
    report = AMD.report()
    old = AMD.report(**_OLD_FIRMWARE)
    pieces = {key: (f"{key.kind.replace('-', ' ')}", data) for key, data in AMD.collateral(report).items()}
    pieces = {key: (name.replace("snp vek", "snp vcek"), data) for key, (name, data) in pieces.items()}
    pieces[vek_key(parse_report(old))] = ("snp vcek for old firmware", AMD.vek(old))
    pieces[INTEL.key] = ("tdx collateral", json.dumps(INTEL.members(tcb_info=_LEVELS)).encode())
    for id_, name in zip(forge.GPU_MANIFESTS, ("driver manifest", "vbios manifest"), strict=True):
        pieces[manifest_key(id_)] = (name, forge.MANIFESTS[manifest_key(id_)])
    for number, gpu in enumerate(NVIDIA.gpus):
        pieces |= _ocsp(gpu.parties[1:3], f"ocsp of GPU {number}")
    for chain in (NVIDIA.gpus[0].parties[2:], AUTHORITY.parties):
        for link in pairwise(chain):
            pieces |= _ocsp(link, _ocsp_name(link[0]))
    return pieces


def _ocsp(link: Sequence[Party], name: str) -> dict[CollateralKey, tuple[str, bytes]]:
    certificate, issuer = link
    key = ocsp.key(certificate.certificate, issuer.certificate)
    return {key: (name, ocsp_answer(certificate.certificate, issuer))}


def _ocsp_name(party: Party) -> str:
    return f"ocsp of {common_name(party.certificate)}"


if __name__ == "__main__":
    FILE.write_bytes(encode(build()))
