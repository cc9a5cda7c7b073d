"""Who may see the memory of a program that holds keys and requests? Nobody but itself, as far as a system can say so.

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


def keep_memory_private() -> None:
    """Forbid dumps of this process, for good; every process that it starts inherits the limit, none the rest."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # a system without prctl
        forbid_dumps()


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
