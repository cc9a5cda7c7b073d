"""How does a program that knows nothing of us end with us?

`python -m engine.backends.vllm.launcher PARENT_PID PROGRAM ...` becomes that program, having set what survives
exec(2): no core dumps, and death with the engine.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys

from core.media.sandbox import die_with_parent


def main() -> None:
    parent_pid, program, *arguments = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # not Linux: then the engine ends it when it closes in good order
        die_with_parent(int(parent_pid))
    os.execv(program, [program, *arguments])  # noqa: S606  no shell is what is wanted


if __name__ == "__main__":
    main()
