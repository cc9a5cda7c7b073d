"""A program that starts as the engine does, and prints what it sees of its surroundings."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from core.program.isolation import isolate


def main() -> None:
    isolate("program", "tests.core.program.isolated_program:main", ("KEPT",), ("SOTTOVOCE_",))
    report()


def report() -> None:
    import ssl  # it loads OpenSSL, whose configuration may name providers

    ssl.create_default_context()
    sees = {
        "variables": dict(os.environ),
        "arguments": sys.argv,
        "isolated": bool(sys.flags.isolated),
        "file": __file__,
        "library": "stranger.so" in Path("/proc/self/maps").read_text(),
        "path": sys.path,
    }
    sys.stdout.write(json.dumps(sees))


if __name__ == "__main__":
    main() if "--as-it-is" not in sys.argv else report()
