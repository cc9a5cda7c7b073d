"""How does the engine start? With no more of its surroundings than is named here; only then is anything else loaded."""

from __future__ import annotations

from typing import Final

from core.program.isolation import isolate

PREFIXES: Final = ("SOTTOVOCE_",)
"""Settings, each of which is one of ours."""

VARIABLES: Final = (
    # An HTTP proxy on the way to the vendors, whose answers are signed.
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    # Which GPUs there are.
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    # How a terminal shows what is printed.
    "TERM",
    "COLUMNS",
    "LINES",
    "NO_COLOR",
    "FORCE_COLOR",
    # What a shell asks when it completes a command.
    "COMP_CWORD",
    "COMP_WORDS",
    "_SOTTOVOCE_ENGINE_COMPLETE",
    "_TYPER_COMPLETE_ARGS",
    # Where a service manager hears that it serves, and how often that it lives (systemd).
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    # macOS sets it for every process.
    "__CF_USER_TEXT_ENCODING",
)
"""All else that reaches the engine and its processes. None of it names code."""


def main() -> None:
    """Entry point of the console script."""
    isolate("sottovoce-engine", "engine.cli:main", VARIABLES, PREFIXES)
    from engine.commands import app  # what it imports has to find OpenSSL as it was installed  # noqa: PLC0415

    app()


if __name__ == "__main__":
    main()
