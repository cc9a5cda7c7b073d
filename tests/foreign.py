"""Code of a stranger's, as whoever starts a program can name it in variables: whether it got in can be seen."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.requirements import need_program

_LIBRARY = """
static const struct { int id; void (*function)(void); } nothing[] = {{0, 0}};
int OSSL_provider_init(const void *handle, const void *in, const void **out, void **context) {
    *out = nothing;
    return 1;
}
"""
_CONFIGURATION = """
openssl_conf = start
[start]
providers = providers
[providers]
default = default_provider
stranger = strange_provider
[default_provider]
activate = 1
[strange_provider]
module = {library}
activate = 1
"""


def library(directory: Path) -> Path:
    """A shared library that is also a provider of OpenSSL's; who has loaded it shows it among its maps."""
    need_program("cc")
    source, built = directory / "stranger.c", directory / "stranger.so"
    source.write_text(_LIBRARY)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", built, source], check=True)
    return built


def by_openssl(directory: Path) -> dict[str, str]:
    """A configuration of OpenSSL's that loads the library."""
    configuration = directory / "openssl.cnf"
    configuration.write_text(_CONFIGURATION.format(library=library(directory)))
    return {"OPENSSL_CONF": str(configuration), "OPENSSL_MODULES": str(directory)}


def by_loader(directory: Path) -> dict[str, str]:
    """The library, loaded before any program."""
    return {"LD_PRELOAD": str(library(directory))}


def by_python(directory: Path) -> dict[str, str]:
    """A module that Python imports before any program, and that loads the library."""
    (directory / "sitecustomize.py").write_text(f"import ctypes; ctypes.CDLL({str(library(directory))!r})")
    return {"PYTHONPATH": str(directory)}


WAYS = (by_openssl, by_loader, by_python)
