"""What can go wrong in what both ends stand on.

::

    CoreError
    ├── BackendError          a process that does the work failed or died; nothing the caller can mend
    ├── ChannelError          a sealed message is malformed, altered, cut, or answers another request
    │   └── KeyMismatchError  it was sealed to a key, or with a suite, that this gateway does not hold
    ├── OversizeError         a peer sends more than was asked for
    ├── StateError            what must be remembered cannot be kept or read
    └── core.transcript.faults.Fault    a request for a transcript that cannot be fulfilled; each has its kind

A caller who cannot act differently on two of them catches their parent.
"""

from __future__ import annotations


class CoreError(Exception):
    """Root of the package; never raised itself."""


class BackendError(CoreError):
    """A process that does the work for us (decoder, recogniser) failed. The message names it, never its input."""


class ChannelError(CoreError):
    """A message of the channel cannot be trusted. To the peer every such failure looks the same."""


class KeyMismatchError(ChannelError):
    """Unknown key id, key encapsulation or suite, or a first chunk that does not open (RFC 9458 section 5.3)."""


class OversizeError(CoreError):
    """The other end's answer is longer than any that is expected."""


class StateError(CoreError):
    """What must be remembered cannot be kept or read: no permission, no space, no such place."""
