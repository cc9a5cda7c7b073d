"""What of its surroundings may reach a program that holds secrets? It starts itself again, without the rest.

Variables name code: the loader's (`LD_PRELOAD`), Python's (`PYTHONPATH`, whose `sitecustomize` runs before any
program), OpenSSL's (`OPENSSL_CONF` names providers, which are libraries). Whoever starts the program sets them, and is
not trusted with what the program will hold. So before anything of weight is imported, OpenSSL in particular, the
program becomes a Python that is isolated (`-I`: no variables of Python's, no directory of the user's, nor the current
one) and has the named variables alone. What had been loaded by then is gone with the old program.

That is no defence against code that has run by then and means to prevent it: whoever decides how the program is started
has to be trusted with that much.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from typing import Final, NoReturn

IMPORT_PATH: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120
"""Where our packages are found, for programs of ours that start with a clean environment."""

FIXED: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
}
"""What is the same for everybody."""

# Our packages go before those that are installed, where another version of them may be, and behind Python's own.
_START: Final = """
import sys
path, function, sys.argv[0] = sys.argv.pop(1), sys.argv.pop(1), sys.argv.pop(1)
if path not in sys.path:
    installed = (at for at, each in enumerate(sys.path) if each.endswith(("site-packages", "dist-packages")))
    sys.path.insert(next(installed, len(sys.path)), path)
started_again = True
module, _, name = function.partition(":")
getattr(__import__(module, fromlist=[name]), name)()
"""


def passed_on(environ: Mapping[str, str], names: Collection[str], prefixes: tuple[str, ...]) -> dict[str, str]:
    """The environment of a program that may know these variables."""
    kept = {name: value for name, value in environ.items() if name in names or name.startswith(prefixes)}
    return kept | FIXED


def isolate(program: str, function: str, names: Collection[str], prefixes: tuple[str, ...]) -> None:
    """Return in a process that is isolated; in any other, become one, which calls `function` again.

    program: what it is called. function: `module:name`, of no arguments. Raises SystemExit where it cannot be.
    """
    environment = passed_on(os.environ, names, prefixes)
    if sys.flags.isolated and os.environ == environment:
        return
    if getattr(sys.modules["__main__"], "started_again", False):
        strangers = sorted(name for name in os.environ if name not in environment)
        raise SystemExit(f"{program}: started in isolation, and yet sees {', '.join(strangers) or 'other variables'}")
    _become([IMPORT_PATH, function, program, *sys.argv[1:]], environment)


def _become(arguments: list[str], environment: Mapping[str, str]) -> NoReturn:
    if not sys.executable:
        raise SystemExit("Python does not know where it is, and so cannot be started again in isolation")
    os.execve(sys.executable, [sys.executable, "-I", "-c", _START, *arguments], environment)  # noqa: S606
