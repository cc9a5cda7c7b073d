"""The commands of those who write a policy, and of those who audit one: `sottovoce-attest reference`.

They compute from files what evidence must say. Exit codes: 0 computed, or a policy says the same; 10 a policy, or a
guest that was measured, says otherwise; 2 a file that is missing, or not what it is given for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from attestation.cli.given import boot_of, bytes_of, evidence_of, given_of, is_yaml, text_of
from attestation.cli.policy import ALARM
from attestation.cli.verdict import visible
from attestation.errors import AttestationError, PolicyError
from attestation.policy import read_policy
from attestation.reference import snp, tdx
from attestation.reference.direct_boot import candidates
from attestation.reference.firmware import PageOrder, mrtd
from attestation.reference.initdata import (
    AGENT,
    AGENT_POLICY,
    ANNOTATION,
    DATA_HUB,
    MAX_INITDATA_BYTES,
    Algorithm,
    Initdata,
    image_policy,
    parse_initdata,
    write_initdata,
)
from attestation.reference.launch_digest import DEFAULT_CPU, MAX_VCPUS, SEV_FEATURES, BootFiles, Vmm, launch_digests
from attestation.reference.pods import MAX_YAML_BYTES, holes, pod_holes, read_pods
from attestation.reference.policy_text import Value, head, told_file
from attestation.snp.abi import parse_report
from attestation.snp.policy import SnpPolicy
from attestation.tdx.abi import parse_quote
from attestation.tdx.policy import TdxPolicy
from attestation.types import EvidenceKind
from core.program.run import ExitCode

R = TypeVar("R", SnpPolicy, TdxPolicy)

app = typer.Typer(help="Compute what a policy must name, and compare a policy with it.", no_args_is_help=True)


def _file_option(text: str) -> object:
    return typer.Option(metavar="FILE", exists=True, dir_okay=False, show_default=False, help=text)


Firmware = Annotated[Path, _file_option("The firmware, whole, as QEMU's -bios is given it: OVMF.fd.")]
Kernel = Annotated[Path | None, _file_option("The kernel that is booted directly.")]
Initrd = Annotated[Path | None, _file_option("The initrd that is booted with it.")]
CommandLine = Annotated[str | None, typer.Option(metavar="TEXT", help="The kernel's command line.", show_default=False)]
CommandLineFile = Annotated[Path | None, _file_option("A file with the command line, such as a guest's /proc/cmdline.")]
InitdataFiles = Annotated[
    list[Path] | None, _file_option("Initdata (TOML), or the YAML of pods that carry some; may be repeated.")
]
Dstack = Annotated[list[Path] | None, _file_option("A dstack document, mr_config version 3; may be repeated.")]
Measured = Annotated[Path | None, _file_option("A report, quote or bundle of one such guest, for what no file tells.")]
Verify = Annotated[Path | None, _file_option("A policy: say how it differs, and write none.")]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Where it goes. Default: standard output.")]


@app.command("initdata")
def initdata_command(
    *,
    read: Annotated[Path | None, _file_option("Initdata or the YAML of pods to read, and write none.")] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST/NAME@sha256:DIGEST", help="An image that may be pulled, and no other; repeatable."),
    ] = None,
    agent_policy: Annotated[Path | None, _file_option("policy.rego, as genpolicy writes it for the pod.")] = None,
    cdh: Annotated[Path | None, _file_option("cdh.toml, in place of one that names the images.")] = None,
    aa: Annotated[Path | None, _file_option("aa.toml.")] = None,
    algorithm: Annotated[Algorithm, typer.Option(help="Of the digest.")] = Algorithm.SHA384,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the initdata goes, as TOML.")] = None,
) -> None:
    """Make a pod's initdata, or read it; print its digest as policies spell it, and what it leaves to the host."""
    with _faults_told():
        if read is not None:
            if image or agent_policy or cdh or aa or out:
                raise typer.BadParameter("what is read is not made", param_hint="--read")
            _tell_all(read)
            return
        if image and cdh:
            raise typer.BadParameter("the images that may be pulled stand in it", param_hint="--cdh")
        files = {AGENT: aa, DATA_HUB: cdh, AGENT_POLICY: agent_policy}
        data = {name: text_of(path) for name, path in files.items() if path is not None}
        if image:
            data[DATA_HUB] = image_policy(image)
        initdata = write_initdata(data, algorithm)
        if out is not None:
            _write(out, initdata.toml)
        _tell("initdata", initdata)
        _warn(holes(initdata, tuple(image or ())))
        typer.echo(f"{ANNOTATION}: {initdata.annotate()}")


@app.command("snp")
def snp_command(
    firmware: Firmware,
    *,
    vcpus: Annotated[list[int], typer.Option(min=1, max=MAX_VCPUS, help="Processors of the guest; may be repeated.")],
    kernel: Kernel = None,
    initrd: Initrd = None,
    cmdline: CommandLine = None,
    cmdline_file: CommandLineFile = None,
    cpu: Annotated[
        list[str] | None, typer.Option(help=f"QEMU's model; may be repeated. Default: {DEFAULT_CPU}.")
    ] = None,
    features: Annotated[str, typer.Option(help="SEV features; 0x21 with debug swap.")] = hex(SEV_FEATURES),
    vmm: Annotated[Vmm, typer.Option(help="What starts the guest.")] = Vmm.QEMU,
    initdata: InitdataFiles = None,
    dstack: Dstack = None,
    measured: Measured = None,
    verify: Verify = None,
    out: Out = None,
) -> None:
    """The table `snp` of a policy: launch digests, and the host data of initdata."""
    with _faults_told():
        boot = boot_of(kernel, initrd, cmdline, cmdline_file)
        files = BootFiles(firmware, kernel, initrd, boot.command_line)
        shapes = launch_digests(files, vcpus=vcpus, cpus=cpu or (DEFAULT_CPU,), features=_number(features), vmm=vmm)
        given = given_of(initdata, dstack)
        reference = snp.SnpReference(
            tuple(Value(one.digest.hex(), f"{_counted(one.vcpus, 'vCPU')}, {one.cpu}") for one in shapes),
            tuple(Value(one.host_data.hex(), one.origin) for one in given),
            parse_report(evidence_of(measured, EvidenceKind.SNP).report) if measured else None,
        )
        _refuse(snp.contradictions(reference))
        if verify is not None:
            _compared(snp.differences(_rules(verify, EvidenceKind.SNP, SnpPolicy), reference))
            return
        sources = (
            told_file("firmware", bytes_of(firmware)),
            *boot.told,
            f"SEV features {features}, {vmm}",
            *(f"given to the guest: {one.origin}" for one in given),
        )
        if kernel is None:
            _warn(["no kernel: the launch digest covers the firmware alone, and names no software that it boots"])
        _emit(head(sources) + snp.table(reference), out)


@app.command("tdx")
def tdx_command(
    firmware: Firmware,
    *,
    kernel: Kernel = None,
    initrd: Initrd = None,
    cmdline: CommandLine = None,
    cmdline_file: CommandLineFile = None,
    allow_any_rtmr0: Annotated[
        bool, typer.Option(help="DANGER: accept whatever ACPI tables and boot variables the host makes up.")
    ] = False,
    initdata: InitdataFiles = None,
    dstack: Dstack = None,
    measured: Measured = None,
    verify: Verify = None,
    out: Out = None,
) -> None:
    """The table `tdx` of a policy: MRTD, RTMR1 and RTMR2 of a direct boot, and the MRCONFIGID of initdata."""
    with _faults_told():
        boot = boot_of(kernel, initrd, cmdline, cmdline_file)
        if boot.kernel is None:
            raise typer.BadParameter("without it nothing names the software", param_hint="--kernel")
        image, given = bytes_of(firmware), given_of(initdata, dstack)
        orders = {PageOrder.AT_ONCE: "under QEMU from 9 on", PageOrder.LATER: "under QEMU 8"}
        reference = tdx.TdxReference(
            tuple(Value(mrtd(image, order).hex(), how) for order, how in orders.items()),
            candidates(boot.kernel, boot.command_line, boot.initrd),
            tuple(Value(one.mr_config_id.hex(), one.origin) for one in given),
            parse_quote(evidence_of(measured, EvidenceKind.TDX).report).report if measured else None,
        )
        _refuse(tdx.contradictions(reference))
        if verify is not None:
            _compared(tdx.differences(_rules(verify, EvidenceKind.TDX, TdxPolicy), reference))
            return
        sources = (told_file("firmware", image), *boot.told, *(f"given to the guest: {one.origin}" for one in given))
        _emit(head(sources) + tdx.table(reference, allow_any_rtmr0=allow_any_rtmr0), out)


def _rules(path: Path, kind: EvidenceKind, form: type[R]) -> R:
    if not isinstance(rules := read_policy(path).machine.get(kind), form):
        raise PolicyError(f"policy: it has no table `{kind}`")
    return rules


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise typer.BadParameter("not a number", param_hint="--features") from None


def _tell_all(path: Path) -> None:
    data = bytes_of(path, max_bytes=max(MAX_INITDATA_BYTES, MAX_YAML_BYTES))
    if not is_yaml(data):
        initdata = parse_initdata(data)
        _tell(path.name, initdata)
        _warn(holes(initdata))
        return
    for pod in read_pods(data):
        _tell(pod.name, pod.initdata)
        for image in pod.images:
            typer.echo(f"{'image':<18} {visible(image)}")
        typer.echo(f"{'kernel parameters':<18} {visible(pod.kernel_parameters) or 'none'}")
        _warn(pod_holes(pod))


def _tell(name: str, initdata: Initdata) -> None:
    typer.echo(visible(f"{name}: {', '.join(sorted(initdata.data)) or 'nothing'}"))
    typer.echo(f"{initdata.algorithm:<18} {initdata.digest.hex()}")
    typer.echo(f"{'snp.host_data':<18} {initdata.host_data.hex()}")
    typer.echo(f"{'tdx.mr_config_id':<18} {initdata.mr_config_id.hex()}")


def _warn(sentences: Iterator[str] | list[str]) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for sentence in sentences:
        console.print(Text(visible(f"OPEN: {sentence}"), ALARM))


def _compared(differences: Iterator[str]) -> None:
    _refuse(differences)
    typer.echo("the policy says what these files give")


def _refuse(differences: Iterator[str]) -> None:
    if found := tuple(differences):
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        for difference in found:
            console.print(Text(visible(f"DIFFERS: {difference}"), ALARM))
        raise typer.Exit(ExitCode.REFUSED)


def _emit(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=False)
    else:
        _write(out, text.encode())


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as exc:
        raise typer.BadParameter(f"{path}: {exc.strerror}", param_hint="--out") from None


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@contextmanager
def _faults_told() -> Iterator[None]:
    try:
        yield
    except AttestationError as exc:
        raise typer.BadParameter(str(exc)) from None
