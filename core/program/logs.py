"""What may a log say? Events in words of ours; of libraries and of exceptions their names, never their words."""

from __future__ import annotations

import logging  # noqa: TID251 - the door through which the sentences of libraries do not come
import sys
import traceback
from collections.abc import MutableMapping
from enum import StrEnum
from typing import Any

import structlog


class LogFormat(StrEnum):
    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class _NamesOnly(logging.Handler):
    """What libraries log through the standard module: who and how bad, never their words, which may quote a request."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        level = logging.ERROR if record.levelno >= logging.ERROR else logging.WARNING
        structlog.get_logger("library").log(level, "library_message", logger=record.name, error=error)


def _name_exception(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An exception is logged as its kind and place: its message, and the variables around it, may quote a request."""
    given = event.pop("exc_info", None)
    exc = given if isinstance(given, BaseException) else sys.exc_info()[1] if given else None
    if exc is not None:
        frames = traceback.extract_tb(exc.__traceback__)
        event.update(error=type(exc).__name__, at=f"{frames[-1].name}:{frames[-1].lineno}" if frames else None)
    return event


def log_through_the_application() -> None:
    """For an application that imports us: its `logging` has our events too, unless it has configured structlog."""
    if not structlog.is_configured():
        structlog.configure(
            processors=[_name_exception, structlog.processors.KeyValueRenderer(key_order=["event"])],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
        )


def configure_logging(log_format: LogFormat, log_level: LogLevel) -> None:
    """Structured lines on standard error; never called at import."""
    as_json = log_format is LogFormat.JSON or (log_format is LogFormat.AUTO and not sys.stderr.isatty())
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _name_exception,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[log_level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_NamesOnly()], level=logging.WARNING, force=True)
