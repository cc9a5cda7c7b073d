"""What of the documents do the programs write themselves? The tables of settings, of metrics and of the proxy's errors.

`make docs` (`python -m docs.generate`) puts them where they stand; a test compares. A table of settings is the first
one behind its heading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from pydantic.fields import FieldInfo

from attestation.cli.inspect import InspectSettings
from attestation.cli.main import VerifySettings
from attestation.collateral.options import CollateralOptions
from attestation.guest.options import GuestOptions
from attestation.release.trust import SignerOptions, StateOptions
from core.program.metrics import Described
from core.program.push import PushOptions
from core.program.settings import ProgramSettings
from engine.settings import EngineSettings
from engine.telemetry import MODEL_SERVER_SERIES
from engine.telemetry import Telemetry as EngineTelemetry
from proxy.errors import ERRORS
from proxy.jobs.telemetry import JobsTelemetry
from proxy.jobs_options import JobsOptions
from proxy.settings import ProxySettings
from proxy.telemetry import Telemetry as ProxyTelemetry

DOCS: Final = Path(__file__).parent

SETTINGS: Final[Mapping[str, type[ProgramSettings]]] = {
    "Every program": ProgramSettings,
    "Where collateral comes from": CollateralOptions,
    "What is remembered": StateOptions,
    "Whose policies are believed": SignerOptions,
    "Where metrics are pushed to": PushOptions,
    "Where jobs are kept": JobsOptions,
    "`sottovoce proxy`": ProxySettings,
    "`sottovoce-attest verify`": VerifySettings,
    "`sottovoce-attest inspect`": InspectSettings,
    "Where evidence comes from": GuestOptions,
    "`sottovoce-engine serve`": EngineSettings,
}
"""The sections of `configuration.md`. What several programs take stands in the section of what they share."""

_TABLE: Final = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


def documents() -> dict[Path, str]:
    """What each document that holds a generated table ought to say."""
    return {
        DOCS / "configuration.md": _configuration(),
        DOCS / "errors.md": _errors(),
        DOCS / "metrics.md": _metrics(),
    }


def _configuration() -> str:
    text = (DOCS / "configuration.md").read_text("utf-8")
    for title, settings in SETTINGS.items():
        rows = [(f"`{name}`", _default(field), field.description) for name, field in _own_fields(settings)]
        text = _replaced(text, f"## {title}\n", _table(("setting", "default", "meaning"), rows))
    return text


def _own_fields(settings: type[ProgramSettings]) -> Iterator[tuple[str, FieldInfo]]:
    shared = {
        name
        for other in SETTINGS.values()
        if other is not settings and issubclass(settings, other)
        for name in other.model_fields
    }
    return ((name, field) for name, field in settings.model_fields.items() if name not in shared)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, bool):
        return "`on`" if field.default else "`off`"
    if field.default is None or field.default == ():
        return ""
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


def metrics() -> Iterator[tuple[Described, str]]:
    """Every metric of both programs, and as of when its values are."""
    engine = EngineTelemetry("any")
    in_windows = [*engine.windowed.described, *(series.described for series in MODEL_SERVER_SERIES.values())]
    proxy = ProxyTelemetry()
    JobsTelemetry(proxy.metrics)
    yield from ((metric, "now") for metric in proxy.described)
    yield from ((metric, "now") for metric in engine.live.described)
    yield from ((metric, "window") for metric in in_windows)


def _metrics() -> str:
    rows = [
        (f"`{metric.name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), as_of, metric.meaning)
        for metric, as_of in metrics()
    ]
    table = _table(("metric", "type", "labels", "as of", "meaning"), rows)
    return _replaced((DOCS / "metrics.md").read_text("utf-8"), "## All metrics\n", table)


def _errors() -> str:
    said = {True: "yes", False: "no", None: ""}
    rows = [(f"`{code}`", row.status, said[row.should_retry], row.sentence) for code, row in sorted(ERRORS.items())]
    table = _table(("code", "status", "retry", "message"), rows)
    return _replaced((DOCS / "errors.md").read_text("utf-8"), "## All codes\n", table)


def _table(titles: tuple[str, ...], rows: Iterable[Iterable[object]]) -> str:
    lines = [titles, ("---",) * len(titles), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def _replaced(text: str, heading: str, table: str) -> str:
    """A document with `table` in place of the first one behind a heading."""
    before, found, after = text.partition(f"\n{heading}")
    if not found or _TABLE.search(after) is None:
        raise LookupError(f"there is no table behind {heading!r}")
    return before + found + _TABLE.sub(lambda _: table, after, count=1)


def main() -> None:
    for path, text in documents().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
