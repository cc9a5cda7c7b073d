"""What may a process still do once it reads a stranger's file? Compute, speak on the pipes it has, and end.

`enter` is for a process forked for one file, after everything it needs is loaded and before the first byte of the file
is parsed. It needs no privilege, works for root too (whom RLIMIT_NPROC does not bind), and cannot be undone:

1. resource limits, setrlimit(2): no new descriptor, no growing file, no process, no core dump, bounded memory and CPU
2. no core and no ptrace by others of the same user: PR_SET_DUMPABLE, prctl(2)
3. no privileges regained: PR_SET_NO_NEW_PRIVS, which an unprivileged seccomp filter requires
4. a list of allowed system calls: seccomp(2). It is classic BPF (Linux `networking/filter.rst`), assembled here.

The filter answers any other call with EPERM instead of killing the process, so that a library which merely asks (the
number of processors, a locale) carries on without. A call in the form of another architecture does kill: the numbers
mean something else there, and nothing honest makes one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import resource
import signal
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from core.errors import BackendError
from core.program.memory import forbid_dumps, prctl

OOM_SCORE = Path("/proc/self/oom_score_adj")

# prctl(2), seccomp(2): linux/prctl.h, linux/seccomp.h, linux/audit.h
PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_KILL_PROCESS = 0x8000_0000
SECCOMP_RET_ERRNO = 0x0005_0000
SECCOMP_RET_ALLOW = 0x7FFF_0000
AUDIT_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
X32_SYSCALL_BIT = 0x4000_0000

# struct seccomp_data { int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]; }
OFFSET_NR, OFFSET_ARCH, OFFSET_ARGS = 0, 4, 16

# linux/bpf_common.h: load a word at a fixed place, three conditional jumps on a constant, return a constant.
LOAD, JUMP_EQ, JUMP_GE, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06

PROT_ARGUMENT = 2
"""The place of `prot` among the arguments of mmap(2) and mprotect(2)."""

ALLOWED_CALLS = {
    # name: (x86_64, aarch64), from the kernel's syscall_64.tbl and asm-generic/unistd.h
    "read": (0, 63),
    "write": (1, 64),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "futex": (202, 98),
    "sched_yield": (24, 124),
    "getrandom": (318, 278),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "restart_syscall": (219, 128),
    "setitimer": (38, 103),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "exit": (60, 93),
    "exit_group": (231, 94),
}

ALLOWED_UNLESS_EXECUTABLE = {"mmap": (9, 222), "mprotect": (10, 226)}
"""Memory, but none that holds new code: neither FFmpeg nor the speech model compiles anything as it runs."""


DENIED_CALLS = {
    # Whatever opens a way out, or becomes another program. A socket pair leads nowhere, and may stay.
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "io_uring_setup": (425, 425),
    "pidfd_getfd": (438, 438),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one file may use.

    memory_bytes: address space beyond what the process has mapped when it enters the sandbox. Address space, because
    it bounds what an allocator hands out *before* pages are touched, and so turns a bomb into a failed `malloc`.
    cpu_s: processor seconds since the process began; it is killed by SIGXCPU.
    """

    memory_bytes: int
    cpu_s: int


def enter(limits: Limits, *, allow_unsandboxed: bool = False) -> None:
    """Give up everything but computing and the open descriptors, for good.

    allow_unsandboxed: go on, with the resource limits alone, where the kernel offers no seccomp filters.
    Raises BackendError where it does not and that is not allowed; the process must then not touch the file.
    """
    _limit(resource.RLIMIT_AS, _mapped_bytes() + limits.memory_bytes)
    _limit(resource.RLIMIT_CPU, limits.cpu_s, hard_grace=1)  # SIGXCPU first, so that the cause shows, then SIGKILL
    for forbidden in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE):
        _limit(forbidden, 0)
    try:
        forbid_dumps()
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        _install(filter_program(platform.machine()))
    except OSError as exc:
        if not allow_unsandboxed:
            raise BackendError("this kernel offers the decoder no sandbox (seccomp filters)") from exc


def forbid_network(*, allow_unsandboxed: bool = False) -> None:
    """Give up sockets that lead anywhere and starting programs, for good, for libraries that need more.

    allow_unsandboxed: as of `enter`. Raises BackendError likewise.
    """
    try:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        _install(denying_program(platform.machine()))
    except OSError as exc:
        if not allow_unsandboxed:
            raise BackendError("this kernel offers no sandbox (seccomp filters)") from exc


def die_first() -> None:
    """Have the kernel end this process, and those it forks, before any other when memory runs out (proc(5)).

    Before `forbid_dumps`, after which it may no longer be said. Where there is no such file nothing is changed.
    """
    with contextlib.suppress(OSError):
        OOM_SCORE.write_text("1000")


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent, a process of one thread, ends.

    parent_pid: who the parent should be; it may have ended before the call.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def filter_program(machine: str) -> bytes:
    """The seccomp filter for `platform.machine()`, as an array of `struct sock_filter`.

    Raises OSError (ENOSYS) for an architecture without a table here.
    """
    column, program = _beginning(machine)
    for numbers in ALLOWED_CALLS.values():
        program += _on(JUMP_EQ, numbers[column], [_instruction(RETURN, SECCOMP_RET_ALLOW)])
    for numbers in ALLOWED_UNLESS_EXECUTABLE.values():
        program += _on(JUMP_EQ, numbers[column], _allow_unless_executable())
    return b"".join([*program, _instruction(RETURN, SECCOMP_RET_ERRNO | errno.EPERM)])


def denying_program(machine: str) -> bytes:
    """A seccomp filter that refuses `DENIED_CALLS` alone. Raises OSError as `filter_program` does."""
    column, program = _beginning(machine)
    for numbers in DENIED_CALLS.values():
        program += _on(JUMP_EQ, numbers[column], [_instruction(RETURN, SECCOMP_RET_ERRNO | errno.EPERM)])
    return b"".join([*program, _instruction(RETURN, SECCOMP_RET_ALLOW)])


def _beginning(machine: str) -> tuple[int, list[bytes]]:
    """The column of a machine's numbers, and how every filter begins: who calls by another machine's is killed.

    Raises OSError as `filter_program` does.
    """
    if machine not in AUDIT_ARCH or sys.byteorder != "little":
        raise OSError(errno.ENOSYS, "no list of system calls for this architecture")
    column = list(AUDIT_ARCH).index(machine)
    program = [
        _instruction(LOAD, OFFSET_ARCH),
        _instruction(JUMP_EQ, AUDIT_ARCH[machine], skip_if_true=1),
        _instruction(RETURN, SECCOMP_RET_KILL_PROCESS),
        _instruction(LOAD, OFFSET_NR),
    ]
    if machine == "x86_64":
        program += _on(JUMP_GE, X32_SYSCALL_BIT, [_instruction(RETURN, SECCOMP_RET_KILL_PROCESS)])
    return column, program


def _allow_unless_executable() -> list[bytes]:
    # `prot` is an int: the low half of a little-endian 64-bit argument.
    return [
        _instruction(LOAD, OFFSET_ARGS + 8 * PROT_ARGUMENT),
        *_on(JUMP_ANY_BIT, mmap.PROT_EXEC, [_instruction(RETURN, SECCOMP_RET_ERRNO | errno.EPERM)]),
        _instruction(RETURN, SECCOMP_RET_ALLOW),
    ]


def _on(jump: int, operand: int, block: list[bytes]) -> list[bytes]:
    """Run a block that returns where the test holds, and step over it where not."""
    return [_instruction(jump, operand, skip_if_false=len(block)), *block]


def _instruction(code: int, k: int, *, skip_if_true: int = 0, skip_if_false: int = 0) -> bytes:
    """One `struct sock_filter { __u16 code; __u8 jt; __u8 jf; __u32 k; }`."""
    return struct.pack("=HBBI", code, skip_if_true, skip_if_false, k)


class _SockFprog(ctypes.Structure):
    """`struct sock_fprog`: how many instructions, and where."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _install(program: bytes) -> None:
    described = _SockFprog(len(program) // 8, program)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(described))


def _limit(which: int, value: int, *, hard_grace: int = 0) -> None:
    """Lower a limit for good; one that is lower already stays."""
    hard = resource.getrlimit(which)[1]
    ceiling = value + hard_grace
    if hard != resource.RLIM_INFINITY:
        ceiling = min(ceiling, hard)
    resource.setrlimit(which, (min(value, ceiling), ceiling))


def _mapped_bytes() -> int:
    # proc(5), statm: the first number is the total program size in pages.
    with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - one read before the door closes
        return int(statm.read().split()[0]) * mmap.PAGESIZE
