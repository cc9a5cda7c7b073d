"""What a process in the sandbox can and cannot do, tried in real processes; and the filter run as the kernel would."""

from __future__ import annotations

import errno
import json
import platform
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.media import sandbox
from tests.places import ROOT
from tests.waiting import GIVE_UP_S

ENTER = """
import ctypes, errno, json, mmap, os, socket, sys, time
from core.media import sandbox

libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")

if "nobody" in sys.argv and os.getuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
listener = socket.create_server(("127.0.0.1", 0))
address = listener.getsockname()
parent = os.getppid()
spare, _ = socket.socketpair()
X86 = os.uname().machine == "x86_64"
sandbox.enter(sandbox.Limits(memory_bytes=64 << 20, cpu_s=20))
"""

PROBE = (
    ENTER
    + """
attempts = {
    "read a file": lambda: os.open("/etc/hostname", os.O_RDONLY),
    "read its own memory": lambda: os.open("/proc/self/mem", os.O_RDWR),
    "make a file": lambda: os.open("probe", os.O_CREAT | os.O_WRONLY),
    "make a file in memory": lambda: os.memfd_create("probe"),
    "list a directory": lambda: os.listdir("/"),
    "look at a file": lambda: os.stat("/"),
    "remove a file": lambda: os.unlink("probe"),
    "change directory": lambda: os.chdir("/"),
    "make a TCP socket": lambda: socket.socket(),
    "make a Unix socket": lambda: socket.socket(socket.AF_UNIX),
    "make a pair of sockets": lambda: socket.socketpair(),
    "accept a connection": lambda: listener.accept(),
    "send a descriptor": lambda: socket.send_fds(spare, [b"x"], [1]),
    "make a pipe": lambda: os.pipe(),
    "copy a descriptor": lambda: os.dup(1),
    "fork": lambda: os.fork(),
    "start a program": lambda: os.execv("/bin/true", ["true"]),
    "signal its parent": lambda: os.kill(parent, 0),
    "trace": lambda: call(101 if X86 else 117, 0, 0, 0, 0),
    "read another's memory": lambda: call(310 if X86 else 270, parent, 0, 0, 0, 0, 0),
    "use io_uring": lambda: call(425, 1, 0),
    "load a BPF program": lambda: call(321 if X86 else 280, 0, 0, 0),
    "make a namespace": lambda: call(272 if X86 else 97, 0x10000000),
    "run new code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "raise its limits": lambda: call(302 if X86 else 261, 0, 0, 0, 0),
    "take all memory": lambda: bytearray(256 << 20),
    "take some memory": lambda: bytearray(16 << 20),
    "tell the time": lambda: time.monotonic(),
    "draw a random number": lambda: os.urandom(8),
}
outcomes = {}
for name, attempt in attempts.items():
    try:
        attempt()
    except MemoryError:
        outcomes[name] = "ENOMEM"
    except OSError as error:
        outcomes[name] = errno.errorcode[error.errno]
    else:
        outcomes[name] = "done"
os.write(1, json.dumps(outcomes).encode())
os._exit(0)
"""
)

HARMLESS = {"take some memory", "tell the time", "draw a random number"}


def _python(source: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", source, *arguments],
        capture_output=True,
        check=False,
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=GIVE_UP_S,
    )


@pytest.mark.parametrize("user", ["self", "nobody"])
def test_only_computing_is_left(user: str, tmp_path: Path) -> None:
    probe = _python(PROBE, user, cwd=tmp_path)
    assert probe.returncode == 0, probe.stderr
    outcomes = json.loads(probe.stdout)
    assert {name for name, outcome in outcomes.items() if outcome == "done"} == HARMLESS
    assert outcomes.pop("take all memory") == "ENOMEM"
    assert {outcomes[name] for name in outcomes if name not in HARMLESS} == {"EPERM"}
    assert list(tmp_path.iterdir()) == []


def test_a_thread_cannot_be_started() -> None:
    probe = _python("import threading" + ENTER + "threading.Thread(target=print).start()")
    assert b"can't start new thread" in probe.stderr


def test_computing_for_too_long_ends_the_process() -> None:
    probe = _python(ENTER.replace("cpu_s=20", "cpu_s=1") + "while True: pass")
    assert probe.returncode == -signal.SIGXCPU


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x32 is a second set of calls of x86-64")
def test_an_x32_call_ends_the_process() -> None:
    assert _python(ENTER + "call(0x40000000 + 39)").returncode == -signal.SIGSYS


def test_no_other_process_of_the_same_user_may_look() -> None:
    source = (
        ENTER.partition("sandbox.enter(")[0]
        + "from core.program.memory import forbid_dumps\nforbid_dumps()\nPR_GET_DUMPABLE = 3\n"
    )
    assert _python(source + "os.write(1, b'%d' % libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0))").stdout == b"0"


def test_a_kernel_without_filters_is_refused_unless_allowed() -> None:
    without = ENTER.replace("sandbox.enter(", "sandbox.platform.machine = lambda: 'unknown'\nsandbox.enter(")
    assert b"no sandbox" in _python(without).stderr
    allowed = without.replace("cpu_s=20)", "cpu_s=20), allow_unsandboxed=True")
    probe = _python(allowed + "os.write(1, b'on'); os.open('/dev/null', os.O_RDONLY)")
    assert probe.stdout == b"on"
    assert b"Too many open files" in probe.stderr  # the resource limits hold all the same


def test_a_process_dies_with_its_parent() -> None:
    source = """
import os, signal
from core.media import sandbox
read, write = os.pipe()
server = os.fork()
if server == 0:
    me = os.getpid()
    if os.fork() == 0:
        sandbox.die_with_parent(me)
        os.write(write, b"armed")
        signal.pause()
    signal.pause()
os.close(write)
assert os.read(read, 5) == b"armed"
os.kill(server, signal.SIGKILL)
assert os.read(read, 1) == b""  # the last holder of the other end is gone
"""
    probe = _python(source)
    assert probe.returncode == 0, probe.stderr


# --- the filter itself ---------------------------------------------------------------------------------------------

ALLOW, KILL, DENY = (
    sandbox.SECCOMP_RET_ALLOW,
    sandbox.SECCOMP_RET_KILL_PROCESS,
    sandbox.SECCOMP_RET_ERRNO | errno.EPERM,
)
MACHINES = pytest.mark.parametrize(("column", "machine"), list(enumerate(sandbox.AUDIT_ARCH)))


def _verdict(program: bytes, architecture: int, number: int, prot: int = 0) -> int:
    """Run a filter as the kernel would (networking/filter.rst) on one `struct seccomp_data`."""
    data = struct.pack("=iIQ6Q", number - (number >> 31 << 32), architecture, 0, 0, 0, prot, 0, 0, 0)
    accumulator = at = 0
    while True:
        code, jump_true, jump_false, k = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        if code == sandbox.RETURN:
            return int(k)
        if code == sandbox.LOAD:
            accumulator = struct.unpack_from("=I", data, k)[0]
            continue
        holds = {
            sandbox.JUMP_EQ: accumulator == k,
            sandbox.JUMP_GE: accumulator >= k,
            sandbox.JUMP_ANY_BIT: bool(accumulator & k),
        }[code]
        at += jump_true if holds else jump_false


@MACHINES
def test_the_filter_allows_the_list_and_nothing_else(column: int, machine: str) -> None:
    program, architecture = sandbox.filter_program(machine), sandbox.AUDIT_ARCH[machine]
    allowed = {n[column] for n in (*sandbox.ALLOWED_CALLS.values(), *sandbox.ALLOWED_UNLESS_EXECUTABLE.values())}
    for number in range(600):
        assert _verdict(program, architecture, number) == (ALLOW if number in allowed else DENY)


@MACHINES
@given(number=st.integers(0, 2**32 - 1), architecture=st.integers(0, 2**32 - 1))
def test_a_call_of_another_architecture_kills(column: int, machine: str, number: int, architecture: int) -> None:
    if architecture != sandbox.AUDIT_ARCH[machine]:
        assert _verdict(sandbox.filter_program(machine), architecture, number) == KILL


@given(number=st.integers(sandbox.X32_SYSCALL_BIT, 2**32 - 1))
def test_x32_calls_kill(number: int) -> None:
    assert _verdict(sandbox.filter_program("x86_64"), sandbox.AUDIT_ARCH["x86_64"], number) == KILL


@MACHINES
@pytest.mark.parametrize("call", sandbox.ALLOWED_UNLESS_EXECUTABLE)
@given(prot=st.integers(0, 2**64 - 1))
def test_memory_is_writable_or_code_but_never_new_code(column: int, machine: str, call: str, prot: int) -> None:
    number = sandbox.ALLOWED_UNLESS_EXECUTABLE[call][column]
    verdict = _verdict(sandbox.filter_program(machine), sandbox.AUDIT_ARCH[machine], number, prot)
    assert verdict == (DENY if prot & 4 else ALLOW)


def test_an_unknown_architecture_has_no_filter() -> None:
    with pytest.raises(OSError, match="architecture"):
        sandbox.filter_program("s390x")


@MACHINES
def test_the_filter_fits_the_kernel(column: int, machine: str) -> None:
    program = sandbox.filter_program(machine)
    assert len(program) % 8 == 0
    assert len(program) // 8 <= 4096  # BPF_MAXINSNS


def test_the_numbers_of_this_machine_are_right() -> None:
    headers = Path("/usr/include")
    found = [*headers.glob(f"{platform.machine()}-linux-gnu/asm/unistd_64.h"), *headers.glob("asm/unistd_64.h")]
    if not found or platform.machine() != "x86_64":
        pytest.skip("no kernel headers with a table of calls")
    table = dict(line.split()[1:3] for line in found[0].read_text().splitlines() if line.startswith("#define __NR_"))
    for name, numbers in (sandbox.ALLOWED_CALLS | sandbox.ALLOWED_UNLESS_EXECUTABLE).items():
        assert table[f"__NR_{name}"] == str(numbers[0])


# --- what needs more than computing, but no network


NO_NETWORK = """
import errno, json, os, socket, subprocess, sys, threading
from core.media import sandbox

listener = socket.create_server(("127.0.0.1", 0))
sandbox.forbid_network()
attempts = {
    "make a TCP socket": lambda: socket.socket(),
    "make a Unix socket": lambda: socket.socket(socket.AF_UNIX),
    "accept a connection": lambda: listener.accept(),
    "listen": lambda: listener.listen(),
    "start a program": lambda: os.execv("/bin/true", ["true"]),
    "start a program beside it": lambda: subprocess.run(["/bin/true"], check=True),
    "make a pair of sockets": lambda: socket.socketpair(),
    "read a file": lambda: open("/proc/self/status").read(),
    "start a thread": lambda: threading.Thread(target=lambda: None).start(),
}
outcomes = {}
for name, attempt in attempts.items():
    try:
        attempt()
    except OSError as error:
        outcomes[name] = errno.errorcode[error.errno]
    else:
        outcomes[name] = "done"
inherited = []
def in_a_thread():
    try:
        socket.socket()
    except PermissionError:
        inherited.append(True)
thread = threading.Thread(target=in_a_thread)
thread.start(), thread.join()
outcomes["a thread's socket"] = "EPERM" if inherited else "done"
print(json.dumps(outcomes))
"""


def test_a_process_without_network_opens_no_socket_and_starts_no_program() -> None:
    probe = _python(NO_NETWORK)
    assert probe.returncode == 0, probe.stderr
    outcomes = json.loads(probe.stdout)
    harmless = {"make a pair of sockets", "read a file", "start a thread"}
    assert {name for name, outcome in outcomes.items() if outcome == "done"} == harmless
    assert {outcome for name, outcome in outcomes.items() if name not in harmless} == {"EPERM"}
