"""`sottovoce-attest reference` computes what a policy must name, and says how a policy differs."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from attestation.bundle import Bundle
from attestation.cli.main import app
from attestation.policy import parse_policy
from attestation.reference.direct_boot import candidates
from attestation.reference.firmware import mrtd
from attestation.reference.initdata import ANNOTATION, Algorithm, parse_annotation, parse_initdata
from attestation.types import EvidenceKind, Nonce
from tests.attestation import machines
from tests.attestation.reference.forge import firmware, kernel
from tests.attestation.reference.test_pods import SOUND, template, workload
from tests.attestation.snp.forge import ForgedAmd
from tests.attestation.tdx.forge import ForgedIntel

DONE, USAGE, REFUSED = 0, 2, 10
ENGINE = "ghcr.io/org/engine@sha256:" + "ab" * 32
AMD, INTEL = ForgedAmd(), ForgedIntel()


def reference(*arguments: str | Path) -> Result:
    environment = {"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"}
    return CliRunner().invoke(app, ["reference", *map(str, arguments)], env=environment)


@pytest.fixture
def at(tmp_path: Path) -> Path:
    """A directory with firmware, kernel, initrd, command line, agent policy and initdata."""
    (tmp_path / "OVMF.fd").write_bytes(firmware())
    (tmp_path / "vmlinuz").write_bytes(kernel())
    (tmp_path / "initrd").write_bytes(b"initrd")
    (tmp_path / "cmdline").write_text("quiet\n")
    (tmp_path / "policy.rego").write_text(f"package agent_policy\n# {ENGINE}\n")
    (tmp_path / "initdata.toml").write_bytes(SOUND.toml)
    return tmp_path


def boot(at: Path) -> list[str]:
    files = {"firmware": "OVMF.fd", "kernel": "vmlinuz", "initrd": "initrd", "cmdline-file": "cmdline"}
    return [part for name, file in files.items() for part in (f"--{name}", str(at / file))]


def snp_shape(at: Path) -> list[str]:
    return ["snp", *boot(at), "--vcpus", "1", "--vcpus", "4"]


# --- initdata


def test_initdata_is_made_from_an_image_and_an_agent_policy(at: Path) -> None:
    made = reference("initdata", "--image", ENGINE, "--agent-policy", at / "policy.rego", "--out", at / "made.toml")
    assert made.exit_code == DONE, made.output
    assert "OPEN" not in made.output
    initdata = parse_initdata((at / "made.toml").read_bytes())
    lines = dict(line.split(maxsplit=1) for line in made.stdout.splitlines())
    assert lines["sha384"] == initdata.digest.hex()
    assert lines["snp.host_data"] == initdata.host_data.hex()
    assert lines["tdx.mr_config_id"] == initdata.mr_config_id.hex()
    assert parse_annotation(lines[f"{ANNOTATION}:"]) == initdata
    assert reference("initdata", "--image", ENGINE, "--agent-policy", at / "policy.rego").stdout == made.stdout


@pytest.mark.parametrize("algorithm", Algorithm)
def test_the_algorithm_is_chosen(algorithm: Algorithm) -> None:
    made = reference("initdata", "--image", ENGINE, "--algorithm", algorithm)
    assert f"{algorithm} " in made.stdout


def test_files_of_ones_own_are_taken_as_they_are(at: Path) -> None:
    (at / "cdh.toml").write_text("a = 1")
    (at / "aa.toml").write_text("b = 2")
    made = reference("initdata", "--cdh", at / "cdh.toml", "--aa", at / "aa.toml", "--out", at / "made.toml")
    assert parse_initdata((at / "made.toml").read_bytes()).data == {"cdh.toml": "a = 1", "aa.toml": "b = 2"}
    assert made.stderr.count("OPEN: ") == 2  # no agent policy, and no policy for images


def test_initdata_is_read_back_from_itself_and_from_the_yaml_of_its_pod(at: Path) -> None:
    (at / "pod.yaml").write_text(yaml.safe_dump(workload("StatefulSet", template())))
    bare, of_pod = (
        reference("initdata", "--read", at / "initdata.toml"),
        reference("initdata", "--read", at / "pod.yaml"),
    )
    for read in (bare, of_pod):
        assert read.exit_code == DONE
        assert SOUND.host_data.hex() in read.stdout
        assert "OPEN" not in read.output
    assert "StatefulSet/engine" in of_pod.stdout
    assert ENGINE in of_pod.stdout


def test_what_a_pod_leaves_open_is_told(at: Path) -> None:
    (at / "pod.yaml").write_text(yaml.safe_dump(workload("Pod", template(image="ghcr.io/org/engine:1.0"))))
    read = reference("initdata", "--read", at / "pod.yaml")
    assert read.stderr == "OPEN: ghcr.io/org/engine:1.0 is not named by its digest\n"


# --- policies


def test_a_policy_for_snp_is_written_and_accepted_by_its_own_comparison(at: Path) -> None:
    (at / "report.bin").write_bytes(AMD.report())
    unmeasured = reference(*snp_shape(at), "--initdata", at / "initdata.toml", "--out", at / "part.toml")
    assert unmeasured.exit_code == DONE, unmeasured.output
    digest = _first_measurement(at / "part.toml")
    (at / "report.bin").write_bytes(AMD.report(measurement=digest, host_data=SOUND.host_data))
    options = ("--initdata", at / "initdata.toml", "--measured", at / "report.bin")
    assert reference(*snp_shape(at), *options, "--out", at / "policy.toml").exit_code == DONE
    policy = parse_policy((at / "policy.toml").read_bytes())
    assert policy.kinds == {EvidenceKind.SNP}
    compared = reference(*snp_shape(at), *options, "--verify", at / "policy.toml")
    assert (compared.exit_code, compared.stdout) == (DONE, "the policy says what these files give\n")


def _first_measurement(path: Path) -> bytes:
    line = next(line for line in path.read_text().splitlines() if line.startswith('    "'))
    return bytes.fromhex(line.split('"')[1])


def test_every_difference_between_a_policy_and_the_files_is_listed(at: Path) -> None:
    reference(*snp_shape(at), "--initdata", at / "initdata.toml", "--out", at / "policy.toml")
    with (at / "policy.toml").open("a") as file:
        file.write(
            '\n[[snp.products]]\nname = "Milan"\nmin_tcb = { bootloader = 4, tee = 0, snp = 24, microcode = 219 }\n'
        )
    verify = ("--initdata", at / "initdata.toml", "--verify", at / "policy.toml")
    assert reference(*snp_shape(at), *verify).exit_code == DONE
    (at / "cmdline").write_text("quiet debug\n")
    (at / "initdata.toml").write_bytes(SOUND.toml + b"# changed\n")
    compared = reference(*snp_shape(at), *verify)
    assert compared.exit_code == REFUSED
    assert compared.stdout == ""
    assert [line.split()[1:3] for line in compared.stderr.splitlines()] == [
        *[["snp.measurements", "names"]] * 2,
        *[["snp.measurements", "does"]] * 2,
        ["snp.host_data", "names"],
        ["snp.host_data", "does"],
    ]


def test_a_report_of_a_guest_of_other_files_is_refused(at: Path) -> None:
    (at / "report.bin").write_bytes(AMD.report())
    refused = reference(*snp_shape(at), "--measured", at / "report.bin", "--out", at / "policy.toml")
    assert refused.exit_code == REFUSED
    assert "DIFFERS: the report has the measurement" in refused.stderr
    assert not (at / "policy.toml").exists()


def test_without_a_kernel_it_is_said_that_no_software_is_named(at: Path) -> None:
    written = reference("snp", "--firmware", at / "OVMF.fd", "--vcpus", "2", "--vmm", "ec2")
    assert written.exit_code == DONE
    assert "names no software" in written.stderr


def test_a_firmware_without_a_place_for_hashes_is_told_in_one_sentence(at: Path) -> None:
    (at / "OVMF.fd").write_bytes(firmware(sev=[(0x80_0000, 0x1000, 1)]))
    told = reference(*snp_shape(at))
    assert told.exit_code == USAGE
    assert "no place for the hashes of kernel, initrd and command line (SNP_KERNEL_HASHES)" in told.output


def _tdx_quote(at: Path, **body: bytes) -> bytes:
    one = candidates(kernel(), "quiet", b"initrd")[0]
    values: dict[str, Any] = {
        "mr_td": mrtd(firmware()),
        "rtmr1": one.rtmr1,
        "rtmr2": one.rtmr2,
        "mr_config_id": SOUND.mr_config_id,
    }
    return INTEL.quote(**values | body)


def test_a_policy_for_tdx_is_written_from_files_and_one_quote(at: Path) -> None:
    (at / "quote.bin").write_bytes(_tdx_quote(at))
    options = ("--initdata", at / "initdata.toml", "--measured", at / "quote.bin")
    written = reference("tdx", *boot(at), *options, "--out", at / "policy.toml")
    assert written.exit_code == DONE, written.output
    assert parse_policy((at / "policy.toml").read_bytes()).kinds == {EvidenceKind.TDX}
    assert reference("tdx", *boot(at), *options, "--verify", at / "policy.toml").exit_code == DONE
    (at / "quote.bin").write_bytes(_tdx_quote(at, rtmr0=bytes(48)))
    other_shape = reference("tdx", *boot(at), *options, "--verify", at / "policy.toml")
    assert other_shape.exit_code == REFUSED
    assert "tdx.hardware.rtmr0" in other_shape.stderr


def test_without_a_quote_the_candidates_are_written_and_rtmr0_is_asked_for(at: Path) -> None:
    written = reference("tdx", *boot(at), "--initdata", at / "initdata.toml")
    assert written.exit_code == DONE
    assert written.stdout.count("[[tdx.code]]") == 4
    assert written.stdout.count("rtmr0 is lacking") == 2
    allowed = reference("tdx", *boot(at), "--allow-any-rtmr0")
    assert parse_policy(allowed.stdout.encode()).kinds == {EvidenceKind.TDX}


def test_a_bundle_that_a_guest_collected_is_taken_for_its_evidence(at: Path) -> None:
    (at / "bundle.json").write_bytes(Bundle(Nonce(bytes(32)), 0, machines.snp_document()).encode())
    refused = reference(*snp_shape(at), "--measured", at / "bundle.json")
    assert "the report has the measurement" in refused.stderr  # it was read, and is of other files
    assert reference("tdx", *boot(at), "--measured", at / "bundle.json").exit_code == USAGE


def test_a_document_of_dstack_is_taken_too(at: Path) -> None:
    (at / "mr_config.json").write_bytes(b'{"version":3}')
    assert "mr_config.json, mr_config 3" in reference("tdx", *boot(at), "--dstack", at / "mr_config.json").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["initdata", "--image", "ghcr.io/org/engine:1.0"],
        ["initdata", "--image", ENGINE, "--cdh", "initdata.toml"],
        ["initdata", "--read", "initdata.toml", "--image", ENGINE],
        ["initdata", "--read", "vmlinuz"],
        ["initdata", "--agent-policy", "absent"],
        ["initdata", "--agent-policy", "OVMF.fd"],
        ["initdata", "--image", ENGINE, "--out", "."],
        ["snp", "--firmware", "vmlinuz", "--vcpus", "1"],
        ["snp", "--firmware", "OVMF.fd"],
        ["snp", "--firmware", "OVMF.fd", "--vcpus", "0"],
        ["snp", "--firmware", "OVMF.fd", "--vcpus", "1", "--features", "x"],
        ["snp", "--firmware", "OVMF.fd", "--vcpus", "1", "--cpu", "EPYC-9"],
        ["snp", "--firmware", "OVMF.fd", "--vcpus", "1", "--initrd", "initrd"],
        [
            "snp",
            "--firmware",
            "OVMF.fd",
            "--vcpus",
            "1",
            "--kernel",
            "vmlinuz",
            "--cmdline",
            "a",
            "--cmdline-file",
            "cmdline",
        ],
        ["snp", "--firmware", "OVMF.fd", "--vcpus", "1", "--verify", "initdata.toml"],
        ["snp", "--firmware", "OVMF.fd", "--vcpus", "1", "--measured", "initrd"],
        ["tdx", "--firmware", "OVMF.fd"],
        ["tdx", "--firmware", "OVMF.fd", "--kernel", "initrd"],
        ["tdx", "--firmware", "OVMF.fd", "--kernel", "vmlinuz", "--initdata", "cmdline"],
    ],
)
def test_a_wrong_call_or_file_is_a_matter_of_usage(
    at: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(at)
    told = reference(*arguments)
    assert told.exit_code == USAGE, told.output
    assert told.stdout == ""


def test_a_policy_without_the_table_is_not_compared(at: Path) -> None:
    (at / "policy.toml").write_text("version = 1\ninsecure.accept = true\n")
    told = reference(*snp_shape(at), "--verify", at / "policy.toml")
    assert told.exit_code == USAGE
    assert "no table `snp`" in told.output


def test_what_others_wrote_becomes_no_line_of_a_policy_and_no_command_to_a_terminal(at: Path) -> None:
    pod = workload("Pod", template(image="x\x1b[2J"))
    pod["metadata"]["name"] = "a\nmeasurements = []\n[insecure]\naccept = true\r\x1b[2J"
    (at / "pod.yaml").write_text(yaml.safe_dump(pod))
    read = reference("initdata", "--read", at / "pod.yaml")
    assert "\x1b" not in read.output
    written = reference(*snp_shape(at), "--initdata", at / "pod.yaml")
    assert written.exit_code == DONE
    assert set(tomllib.loads(written.stdout)) == {"version", "snp"}
    assert not any(
        line.startswith(("[insecure]", "accept", "measurements = []")) for line in written.stdout.splitlines()
    )


def test_initdata_with_lines_as_in_yaml_is_initdata(at: Path) -> None:
    text = SOUND.toml + b"\"note\" = '''\nkind: Pod\n---\n'''\n"
    (at / "initdata.toml").write_bytes(b"# kind: Pod\n" + text)
    assert "note" in reference("initdata", "--read", at / "initdata.toml").stdout
