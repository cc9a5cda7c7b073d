"""Who may see the memory of a program that holds keys and requests? Nobody but itself, as far as a system can say so.

And what becomes of it when a request is over? It stays for the next one, up to a recording's worth.

A crash writes no core dump, setrlimit(2), and where one would be piped to a program (core(5)) the process is not
dumpable, prctl(2); nor may others of the same user trace it or read its /proc/PID/mem. What this cannot forbid is swap:
see `docs/threat-model.md`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
from contextlib import suppress
from typing import Final

PR_SET_DUMPABLE: Final = 4  # linux/prctl.h
M_TRIM_THRESHOLD: Final = -1  # malloc.h of glibc
M_MMAP_THRESHOLD: Final = -3
KEPT_BYTES: Final = 33_554_432
"""More than a recording of 25 MiB, and the most that glibc takes for M_MMAP_THRESHOLD."""


def keep_memory_private() -> None:
    """Forbid dumps of this process, for good; every process that it starts inherits the limit, none the rest."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # a system without prctl
        forbid_dumps()


def keep_freed_memory() -> None:
    """Have malloc keep up to KEPT_BYTES of what was freed, instead of giving it back to the kernel at once, mallopt(3).

    A recording is thousands of pages, and the kernel takes longer to give each of them anew, and empty, than the cipher
    takes to encrypt it. Nothing changes where the C library is not glibc.
    """
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)


def forbid_dumps() -> None:
    """Keep this process's memory out of core dumps and from others of the same user. Raises OSError."""
    prctl(PR_SET_DUMPABLE, 0)


def prctl(option: int, *arguments: int) -> None:
    """Have the kernel treat this process otherwise. Raises OSError, also where there is no such call."""
    try:
        call = ctypes.CDLL(None, use_errno=True).prctl
    except AttributeError as exc:
        raise OSError(errno.ENOSYS, "prctl(2) is Linux's") from exc
    # The kernel refuses some options unless every unused argument is a whole zero word.
    call.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    if call(option, *arguments, *[0] * (4 - len(arguments))) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
