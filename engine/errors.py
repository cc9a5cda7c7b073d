"""What only the engine can say no to; the rest are `core.transcript.faults.Fault` and `core.errors.BackendError`.

::

    EngineError
    └── KeyFileError    the file of API keys cannot be used; the operator's to mend
"""

from __future__ import annotations


class EngineError(Exception):
    """Root of the package; never raised itself."""


class KeyFileError(EngineError):
    """The file of API keys cannot be read, used or written. The message names every fault by its place, no value."""
