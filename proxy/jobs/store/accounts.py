"""Whose key is this, and what may they? Accounts, plans, keys and balances (`proxy.jobs.ports.Accounts`)."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, replace
from decimal import Decimal
from typing import Any, Final

import structlog
from sqlalchemy import Row, func, insert, select, update

from proxy.jobs.errors import ConflictError, DeniedError, MissingError, StoreError
from proxy.jobs.ledger import to_micro
from proxy.jobs.model import (
    LOCAL_ACCOUNT,
    Account,
    AccountId,
    ApiKey,
    Balance,
    KeyId,
    PlanTerms,
    Principal,
)
from proxy.jobs.store import funds
from proxy.jobs.store.database import Database, Tx
from proxy.jobs.store.funds import Funds
from proxy.jobs.store.ids import new_id
from proxy.jobs.store.lines import Head
from proxy.jobs.store.schema import account, api_key, plan
from proxy.jobs.vault import Pepper

_log = structlog.get_logger(__name__)

KEY_PREFIX: Final = "sk_live_"
SESSION_PREFIX: Final = "sess_"
_SECRET_BYTES: Final = 24
_SHOWN: Final = 4


class StoredAccounts:
    def __init__(self, database: Database, pepper: Pepper, funds_: Funds) -> None:
        self._database = database
        self._pepper = pepper
        self._funds = funds_

    async def ensure_local(self) -> None:
        """The account of a proxy that keeps none, on a plan without limits."""
        try:
            await self._make_local()
        except StoreError:  # another replica may have made it in the same moment
            await self._make_local()

    async def _make_local(self) -> None:
        async with self._database.begin() as tx:
            if (await tx.run(select(account.c.id).where(account.c.id == LOCAL_ACCOUNT))).one_or_none() is None:
                await tx.run(insert(plan).values(_plan_values(PlanTerms("local"))))
                values = {"id": LOCAL_ACCOUNT, "name": "local", "plan": "local", "created_ms": tx.now_ms}
                await tx.run(insert(account).values(**values))
                await self._funds.begin(tx, LOCAL_ACCOUNT)

    async def put_plan(self, terms: PlanTerms) -> None:
        """Make a plan, or change one for everybody who is on it."""
        values = _plan_values(terms)
        async with self._database.begin() as tx:
            if (await tx.run(update(plan).where(plan.c.name == terms.name).values(**values))).rowcount == 0:
                await tx.run(insert(plan).values(**values))

    async def plans(self) -> Sequence[PlanTerms]:
        async with self._database.begin() as tx:
            columns = funds.plan_columns()
            return [funds.terms_of(row) for row in await tx.run(select(*columns).order_by(plan.c.name))]

    async def add(self, name: str, plan_name: str) -> Account:
        """Raises ConflictError for a name that is taken, MissingError for a plan that is not there."""
        async with self._database.begin() as tx:
            if (await tx.run(select(plan.c.name).where(plan.c.name == plan_name))).one_or_none() is None:
                raise MissingError
            if (await tx.run(select(account.c.id).where(account.c.name == name))).one_or_none() is not None:
                raise ConflictError("the name is taken")
            made = AccountId(new_id(tx.now_ms))
            await tx.run(insert(account).values(id=made, name=name, plan=plan_name, created_ms=tx.now_ms))
            await self._funds.begin(tx, made)
            return await funds.found_account(tx, made)

    async def move(self, account_id: AccountId, plan_name: str) -> Account:
        """Put an account on another plan; what was paid in stays in the unit of the old. Raises MissingError."""
        async with self._database.begin() as tx:
            if (await tx.run(select(plan.c.name).where(plan.c.name == plan_name))).one_or_none() is None:
                raise MissingError
            await tx.run(update(account).where(account.c.id == account_id).values(plan=plan_name))
            return await funds.found_account(tx, account_id)

    async def all(self) -> Sequence[Account]:
        async with self._database.begin() as tx:
            return [funds.account_of(row) for row in await tx.run(funds.account_query().order_by(account.c.name))]

    async def named(self, name: str) -> Account:
        """Raises MissingError."""
        async with self._database.begin() as tx:
            row = (await tx.run(funds.account_query().where(account.c.name == name))).one_or_none()
        if row is None:
            raise MissingError
        return funds.account_of(row)

    async def account(self, account_id: AccountId) -> Account:
        async with self._database.begin() as tx:
            return await funds.found_account(tx, account_id)

    async def authenticate(self, key: str) -> tuple[Principal, Account]:
        async with self._database.begin() as tx:
            row = (await tx.run(select(api_key).where(api_key.c.digest == self._digest(key)))).one_or_none()
            if row is None or (row.expires_ms is not None and row.expires_ms <= tx.now_ms):
                raise DeniedError
            if not hmac.compare_digest(row.seal, self._seal(_key_of(row), row.digest)):
                _log.error("key_altered")
                raise DeniedError
            if row.revoked_ms is not None:
                raise DeniedError(revoked=True)
            owner = await funds.found_account(tx, AccountId(row.account))
        return Principal(owner.id, KeyId(row.id), row.is_session), owner

    async def add_key(self, account_id: AccountId, name: str, *, lifetime_ms: int | None = None) -> tuple[ApiKey, str]:
        async with self._database.begin() as tx:
            owner = await funds.locked_account(tx, account_id)
            active = (api_key.c.account == account_id, api_key.c.revoked_ms.is_(None), api_key.c.is_session.is_(False))
            count = (await tx.run(select(func.count()).where(*active))).scalar_one()
            if owner.plan.max_active_keys is not None and count >= owner.plan.max_active_keys:
                raise ConflictError("the plan allows no more keys: revoke one first")
            return await self._added(tx, account_id, name, KEY_PREFIX, lifetime_ms)

    async def add_session(self, account_id: AccountId, *, lifetime_ms: int) -> tuple[ApiKey, str]:
        """Somebody has signed in; the session and its token, which nobody can find out again. Raises MissingError."""
        async with self._database.begin() as tx:
            await funds.locked_account(tx, account_id)
            return await self._added(tx, account_id, "session", SESSION_PREFIX, lifetime_ms)

    async def _added(
        self, tx: Tx, account_id: AccountId, name: str, prefix: str, lifetime_ms: int | None
    ) -> tuple[ApiKey, str]:
        text = prefix + secrets.token_urlsafe(_SECRET_BYTES)
        made = ApiKey(
            id=KeyId(new_id(tx.now_ms)),
            account=account_id,
            name=name,
            prefix=text[: len(prefix) + _SHOWN],
            created_ms=tx.now_ms,
            expires_ms=None if lifetime_ms is None else tx.now_ms + lifetime_ms,
            is_session=prefix == SESSION_PREFIX,
        )
        digest = self._digest(text)
        await tx.run(insert(api_key).values(**asdict(made), digest=digest, seal=self._seal(made, digest)))
        return made, text

    async def revoke(self, account_id: AccountId, key: KeyId) -> ApiKey:
        """A key, or a session."""
        this = (api_key.c.id == key, api_key.c.account == account_id)
        async with self._database.begin() as tx:
            row = (await tx.run(select(api_key).where(*this).with_for_update())).one_or_none()
            if row is None:
                raise MissingError
            found = _key_of(row)
            if found.revoked_ms is None:
                found = replace(found, revoked_ms=tx.now_ms)
                await tx.run(
                    update(api_key).where(*this).values(revoked_ms=tx.now_ms, seal=self._seal(found, row.digest))
                )
        return found

    async def keys(self, account_id: AccountId) -> Sequence[ApiKey]:
        async with self._database.begin() as tx:
            query = select(api_key).where(api_key.c.account == account_id).order_by(api_key.c.created_ms)
            return [_key_of(row) for row in await tx.run(query)]

    async def balance(self, account_id: AccountId) -> Balance:
        async with self._database.begin() as tx:
            return await self._funds.balance(tx, await funds.found_account(tx, account_id))

    async def check(self, account_id: AccountId) -> Head:
        """Read every line of an account's ledger; the end of them. Raises LedgerError, MissingError."""
        async with self._database.begin() as tx:
            return await self._funds.check(tx, await funds.locked_account(tx, account_id))

    async def pay_in(self, account_id: AccountId, amount: Decimal, *, by_hand: bool = False) -> Balance:
        """Add to what an account has. by_hand: a correction, which may be negative.

        Raises MissingError, LedgerError; ValueError for an amount that is not more than 0, or has more than 6 decimals.
        """
        if amount <= 0 and not by_hand:
            raise ValueError("an amount is more than 0")
        async with self._database.begin() as tx:
            owner = await funds.locked_account(tx, account_id)
            return await self._funds.pay_in(tx, owner, amount, by_hand=by_hand)

    def _seal(self, key: ApiKey, digest: bytes) -> bytes:
        """Of whose key it is, and until when: no row of the database alone makes it another's."""
        return self._pepper.digest("api key row", digest, json.dumps(asdict(key)).encode())

    def _digest(self, key: str) -> bytes:
        return self._pepper.digest("api key", key.encode("utf-8", "surrogateescape"))


def _plan_values(terms: PlanTerms) -> dict[str, Any]:
    values = asdict(terms)
    return values | {"price_per_hour_micro": to_micro(values.pop("price_per_hour"))}


def _key_of(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=KeyId(row.id),
        account=AccountId(row.account),
        name=row.name,
        prefix=row.prefix,
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        revoked_ms=row.revoked_ms,
        is_session=row.is_session,
    )
