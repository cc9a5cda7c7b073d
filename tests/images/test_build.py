"""What `make` does to build, compare and sign images, with stand-ins for the programs that would do it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.places import ROOT

BUILDAH = """#!/bin/sh
case "$*" in
    *sottovoce-proxy:*) echo sha256:1 ;;
    *again-proxy:*) echo sha256:1 ;;
    *sottovoce-engine:*) echo sha256:2 ;;
    *again-engine:*) echo "$AGAIN" ;;
esac
"""

PUSHING = """#!/bin/sh
test "$1" = push || exit 1
echo -n "sha256:$(basename "$4")" > "$3"
"""

VLLM = """
import multiprocessing

def nothing():
    pass

def main():
    print("started", flush=True)
    process = multiprocessing.get_context("spawn").Process(target=nothing)
    process.start()
    process.join()
    return process.exitcode
"""

SIGNING = """#!/bin/sh
echo "$@" >> "$SIGNED"
"""


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def make(*arguments: str, path: str = "/usr/bin:/bin", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env={"PATH": path, **variables}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("again", "fails"), [("sha256:2", False), ("sha256:3", True), ("", True)])
def test_a_second_build_must_have_the_identity_of_the_first(tmp_path: Path, again: str, fails: bool) -> None:
    buildah = program(tmp_path / "buildah", BUILDAH)
    ended = make("--old-file=image", "reproduce", f"BUILDAH={buildah}", AGAIN=again)
    assert (ended.returncode != 0) == fails, ended.stdout + ended.stderr
    assert ("engine differs" in ended.stdout) == fails


def test_a_build_sees_every_package_and_no_secret_beside_them() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    seen = {line.removeprefix("!") for line in lines if line.startswith("!")}
    files = {".gitignore", "LICENSE", "README.md", "pyproject.toml", "requirements*.lock"}
    assert seen == {*wheel["packages"], *files}


def test_what_is_pushed_is_signed_by_its_digest(tmp_path: Path) -> None:
    buildah, signed = program(tmp_path / "buildah", PUSHING), tmp_path / "signed"
    program(tmp_path / "cosign", SIGNING)
    ended = make(
        "sign",
        "REGISTRY=registry.example/speech",
        "VERSION=1.0",
        f"BUILDAH={buildah}",
        f"IMAGES={tmp_path}",
        path=f"{tmp_path}:/usr/bin:/bin",
        SIGNED=str(signed),
    )
    assert ended.returncode == 0, ended.stderr
    expected = []
    for name in ("sottovoce-proxy", "sottovoce-engine"):
        image = f"registry.example/speech/{name}@sha256:{name}:1.0"
        expected.append(f"sign --yes {image}")
        expected.append(f"attest --yes --type cyclonedx --predicate {tmp_path}/{name}.cdx.json {image}")
    assert signed.read_text().splitlines() == expected


def test_without_a_registry_signing_is_told_and_not_done(tmp_path: Path) -> None:
    signed = tmp_path / "signed"
    program(tmp_path / "cosign", SIGNING)
    ended = make("sign", "BUILDAH=buildah", path=f"{tmp_path}:/usr/bin:/bin", SIGNED=str(signed))
    assert ended.returncode == 0, ended.stderr
    assert "cosign sign --yes REGISTRY/sottovoce-proxy@sha256:..." in ended.stdout
    assert not signed.exists()


def test_the_vllm_that_is_put_upon_its_image_may_start_processes(tmp_path: Path) -> None:
    (line,) = re.findall(
        r"printf '%s\\n' ('#!/opt/vllm.*?) > /opt/vllm/bin/vllm", (ROOT / "Containerfile").read_text(), re.DOTALL
    )
    script = tmp_path / "vllm-program"
    script.write_text("\n".join(re.findall(r"'([^']*)'", line)) + "\n")
    package = tmp_path / "vllm" / "entrypoints" / "cli"
    package.mkdir(parents=True)
    (package / "main.py").write_text(VLLM)
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, env={"PYTHONPATH": str(tmp_path)}
    )
    assert (ended.returncode, ended.stdout) == (0, "started\n"), ended.stderr
