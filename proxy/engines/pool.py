"""Which of several engines gets a request? Of those that have proved themselves, the one that has the least to do.

Each engine is attested on its own and has a key of its own: nothing is shared among them, and nothing is sealed to one
that has not proved itself. A request goes to the engine with the lowest cost (`proxy.engines.health`); by lot among
equals, so that many proxies do not all choose the same. An engine that failed lately is chosen only when no other is
left, and one without a key in force not at all: it is verified beside, and no request waits for it unless there is
nobody else; then for whoever proves itself first.

Engines come and go (`proxy.engines.discovery`): what was under way with one that has left goes on to its end. A pool
of one is the usual case, and costs nothing: there is nothing to choose.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from attestation.policy import Policy
from attestation.statement import Statement
from core.channel.client_secrets import issuer_of
from core.channel.keyconfig import KeyConfig
from proxy.engines.health import DEFAULT_RETRY_AFTER_S, Health
from proxy.engines.lease import EngineId, Lease, Way
from proxy.engines.trust import Trust
from proxy.engines.verifier import AttestedEngine
from proxy.errors import ErrorCode, ProxyError

_log = structlog.get_logger(__name__)

MAX_ENGINES: Final = 64
"""Of one pool: whoever answers for a name may say what he likes, and no more of it is believed than this."""

NO_ENGINE_S: Final = 1.0
REFUSAL_POLL_S: Final = 0.5


@dataclass(slots=True)
class Member:
    """An engine of the pool, and what is known of it."""

    id: EngineId
    way: Way
    trust: Trust
    health: Health = field(default_factory=Health)
    keeper: asyncio.Task[None] | None = None
    has_left: bool = False


Admit = Callable[[Way, Policy], Trust]
"""What is to be known of an engine, by a policy."""


class Finder(Protocol):
    """Where engines are."""

    async def changes(self) -> tuple[Way, ...]:
        """Every engine that there is, whenever that may have changed."""


class Pool:
    """Engines of one policy. finder: None where they stay those of `ways`."""

    def __init__(
        self,
        ways: Iterable[Way],
        policy: Policy,
        admit: Admit,
        *,
        finder: Finder | None = None,
        joined: Callable[[Member], None] = lambda _: None,
        nap: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """joined: told of each engine that is taken in. monotonic: in seconds."""
        self._admit = admit
        self._finder = finder
        self._joined = joined
        self._nap = nap
        self._monotonic = monotonic
        self._members: dict[Way, Member] = {}
        self._found = asyncio.Event()
        self.policy = policy
        """The policy in force."""
        self._take_in(ways)

    @property
    def members(self) -> tuple[Member, ...]:
        """By their places."""
        return tuple(sorted(self._members.values(), key=lambda member: member.id))

    @property
    def held(self) -> tuple[AttestedEngine, ...]:
        """The engines whose keys are in force."""
        return tuple(held for member in self.members if (held := member.trust.held))

    @property
    def is_ready(self) -> bool:
        """Whether a request would be sealed now."""
        return any(member.trust.is_ready for member in self._members.values())

    def member(self, engine: EngineId) -> Member | None:
        """Who has this place now."""
        return next((member for member in self._members.values() if member.id == engine), None)

    def adopt(self, policy: Policy) -> None:
        """Put another policy in force: nothing is sealed to any engine before it has met it."""
        self.policy = policy
        for member in self._members.values():
            member.trust.adopt(policy)

    async def lease(self, *, avoiding: frozenset[EngineId] = frozenset(), issuer: bytes | None = None) -> Lease:
        if self._finder is not None:
            await self._found.wait()
        issuers = self._issuers(issuer) if issuer else []
        named = issuers or list(self._members.values())
        members = [member for member in named if member.id not in avoiding]
        back = [member for member in named if member.id in avoiding and member.health.is_back]
        for some in (members, back):
            if ready := [member for member in some if member.trust.is_ready]:
                chosen = self._best(ready)
                return self.leased(chosen, await chosen.trust.engine(), is_bound=bool(issuers))
        try:
            return await self._first_proved(members)
        except ProxyError:
            if avoiding:
                raise self._unavailable() from None
            raise

    def spare(self, avoiding: frozenset[EngineId]) -> Member | None:
        """An engine that could take a request at once."""
        now_s = self._monotonic()
        ready = [
            member
            for member in self._members.values()
            if member.id not in avoiding and member.trust.is_ready and not member.health.is_aside(now_s)
        ]
        return self._best(ready) if ready else None

    def _issuers(self, issuer: bytes) -> list[Member]:
        return [
            member
            for member in self._members.values()
            if (held := member.trust.held) and issuer_of(held.result.statement.instance) == issuer
        ]

    def leased(self, member: Member, attested: AttestedEngine, *, is_bound: bool = False) -> Lease:
        return _Leased(
            self,
            member,
            attested.choose_key(),
            attested.choose_live_key(),
            attested.result.statement,
            attested.statement_sha256,
            member.trust.withdrawals,
            is_bound,
        )

    def _best(self, ready: list[Member]) -> Member:
        if len(ready) == 1:
            return ready[0]
        now_s = self._monotonic()
        able = [member for member in ready if not member.health.is_aside(now_s)]
        if not able:  # who comes back first
            return min(ready, key=lambda member: member.health.aside_until_s)
        least = min(member.health.cost(now_s) for member in able)
        return random.choice([member for member in able if member.health.cost(now_s) == least])  # noqa: S311 - spreads load, hides nothing

    async def _first_proved(self, members: list[Member]) -> Lease:
        """Of engines without a key that serves now. Raises ProxyError when none of them has one in the end."""
        if not members:
            raise ProxyError(ErrorCode.NO_ATTESTED_ENGINE, retry_after_s=NO_ENGINE_S)
        if len(members) == 1:
            return self.leased(members[0], await members[0].trust.engine())
        # Not a TaskGroup: the first success counts, and a failure only where there is no success.
        proving = {asyncio.create_task(member.trust.engine()): member for member in members}  # noqa: TID251 - ended below
        errors: list[ProxyError] = []
        waiting: set[asyncio.Task[AttestedEngine]] = set(proving)
        try:
            while waiting:
                ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    try:
                        return self.leased(proving[task], task.result())
                    except ProxyError as exc:
                        errors.append(exc)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        # One that may still prove itself is worth another try, whatever was found of the others.
        raise min(errors, key=lambda exc: (exc.row.should_retry is False, exc.retry_after_s or 0.0))

    def _unavailable(self) -> ProxyError:
        waits_s = [member.health.retry_after_s for member in self._members.values()]
        return ProxyError(ErrorCode.ENGINE_UNAVAILABLE, retry_after_s=min(waits_s, default=DEFAULT_RETRY_AFTER_S))

    async def keep_fresh(self) -> None:
        """Find engines, and renew the key of each in good time, for ever."""
        async with asyncio.TaskGroup() as group:
            self._keep(group)
            while self._finder is not None:
                self._take_in(await self._finder.changes())
                self._found.set()
                self._keep(group)

    def _keep(self, group: asyncio.TaskGroup) -> None:
        for member in self._members.values():
            if member.keeper is None:
                member.keeper = group.create_task(member.trust.keep_fresh())

    def _take_in(self, ways: Iterable[Way]) -> None:
        """Let the pool be of these engines; those that were in it stay what they are."""
        named = dict.fromkeys(ways)
        for way in [way for way in self._members if way not in named]:
            left = self._members.pop(way)
            left.has_left = True
            if left.keeper is not None:
                left.keeper.cancel()
            _log.info("engine_left", engine=left.id)
        for way in named:
            if way not in self._members and len(self._members) < MAX_ENGINES:
                member = Member(self._free_place(), way, self._admit(way, self.policy))
                self._members[way] = member
                self._joined(member)
                _log.info("engine_joined", engine=member.id)

    def _free_place(self) -> EngineId:
        taken = {member.id for member in self._members.values()}
        return next(EngineId(place) for place in range(MAX_ENGINES) if place not in taken)

    async def until_refused(self) -> None:
        """Return when no engine has a key in force and each was refused."""
        while not (self._members and all(member.trust.refused.is_set() for member in self._members.values())):
            await self._nap(REFUSAL_POLL_S)

    def now_s(self) -> float:
        return self._monotonic()


@dataclass(frozen=True, slots=True)
class _Leased:
    """A `Lease` of an engine in a pool."""

    _of: Pool
    _member: Member
    key: KeyConfig
    live_key: KeyConfig | None
    statement: Statement
    statement_sha256: str
    _withdrawals: int
    _is_bound: bool

    @property
    def engine(self) -> EngineId:
        return self._member.id

    @property
    def way(self) -> Way:
        return self._member.way

    @property
    def stands(self) -> bool:
        return self._member.trust.withdrawals == self._withdrawals

    @property
    def has_spare(self) -> bool:
        return not self._is_bound and len(self._of.members) > 1

    @contextmanager
    def carried(self) -> Iterator[None]:
        self._member.health.in_flight += 1
        try:
            yield
        finally:
            self._member.health.in_flight -= 1

    def accepted(self) -> None:
        self._member.trust.key_accepted()

    def answered(self, after_s: float) -> None:
        self._member.health.answered(after_s, self._of.now_s())

    async def mismatched(self, *, live: bool = False, avoiding: frozenset[EngineId] = frozenset()) -> Lease:
        used = self.live_key if live and self.live_key else self.key
        # Verifying it again may take long, and others are ready now.
        if not self._is_bound and (spare := self._of.spare(avoiding | {self.engine})):
            self._member.trust.doubt(used)
            return self._of.leased(spare, await spare.trust.engine())
        attested = await self._member.trust.after_mismatch(used)
        return self._of.leased(self._member, attested, is_bound=self._is_bound)

    def failed(self, retry_after_s: float | None) -> None:
        self._member.health.failed(retry_after_s, self._of.now_s())
