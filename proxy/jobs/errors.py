"""What can go wrong with jobs, in words of no API; each dialect has a table of its own words.

::

    JobsError
    ├── BusyError             the same idempotency key is being answered at this moment
    ├── ConflictError         the thing is in a state in which this cannot be done to it
    ├── CrowdedError          the account has as many jobs under way as it may, and this one is not to wait
    ├── DeniedError           a key is unknown, revoked or over; or may not do this
    ├── FailedError           work on a job failed, with the `Failure` that the job shall end in
    │   └── TransientError    another try may succeed
    ├── FundsError            the account cannot pay for this
    ├── LedgerError           lines of an account's money are not as they were written: no more are added
    ├── LostError             another worker has this job now, or nobody may have it: drop the work, say nothing
    ├── MissingError          there is no such thing, or it is another account's, or was deleted
    ├── ReusedKeyError        the same idempotency key came with another body
    ├── StoreError            the database or the blobs cannot be reached, or are full
    └── VaultError            a sealed value cannot be opened: altered, moved, cut, or its key was forgotten
        └── KeysAwayError     the key-encryption key for it is not among those at hand, and may be later

A request that is wrong in itself is a `core.transcript.faults.Fault`.
"""

from __future__ import annotations

from proxy.jobs.model import Failure


class JobsError(Exception):
    """Root of the package; never raised itself."""


class BusyError(JobsError):
    def __init__(self, retry_after_s: float) -> None:
        super().__init__("the first request with this key is being answered")
        self.retry_after_s = retry_after_s


class ConflictError(JobsError):
    """The message says which state; it quotes nothing of a request."""


class CrowdedError(JobsError):
    pass


class DeniedError(JobsError):
    """revoked: the key was good once."""

    def __init__(self, *, revoked: bool = False) -> None:
        super().__init__("revoked" if revoked else "not known")
        self.revoked = revoked


class FailedError(JobsError):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.kind.value)
        self.failure = failure


class TransientError(FailedError):
    """retry_after_s: when another try may succeed. untouched: nobody took the work, so it was no attempt at it."""

    def __init__(self, failure: Failure, *, retry_after_s: float | None = None, untouched: bool = False) -> None:
        super().__init__(failure)
        self.retry_after_s = retry_after_s
        self.untouched = untouched


class FundsError(JobsError):
    """is_empty: there is nothing at all; otherwise not enough for this."""

    def __init__(self, *, is_empty: bool) -> None:
        super().__init__("nothing left" if is_empty else "not enough left")
        self.is_empty = is_empty


class LedgerError(JobsError):
    """The message says which line, and nothing of it."""


class LostError(JobsError):
    pass


class MissingError(JobsError):
    pass


class ReusedKeyError(JobsError):
    pass


class StoreError(JobsError):
    pass


class VaultError(JobsError):
    pass


class KeysAwayError(VaultError):
    pass
