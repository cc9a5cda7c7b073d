"""What can a person tell jobs, and whoever keeps them? `sottovoce jobs|accounts|keys|plans|balance`.

The first five of `jobs` ask the running proxy, as any app does. All others open what is kept, beside the proxy.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.table import Column, Table

from core.program.commands import settings_command
from core.program.run import ExitCode
from proxy.jobs_options import JobsOptions
from proxy.settings import DEFAULT_PORT

if TYPE_CHECKING:
    from proxy.client.jobs import Caller
    from proxy.jobs.service import Kept

T = TypeVar("T")

jobs = typer.Typer(help="Background jobs of the local proxy.", no_args_is_help=True)
accounts = typer.Typer(help="Accounts, whose jobs are their own.", no_args_is_help=True)
keys = typer.Typer(help="API keys of accounts.", no_args_is_help=True)
plans = typer.Typer(help="What accounts may do, and what it costs.", no_args_is_help=True)
balance = typer.Typer(help="What accounts have paid in, and what is held.", no_args_is_help=True)

_URL: Final = f"http://127.0.0.1:{DEFAULT_PORT}"
_ID_WIDTH: Final = 36
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS

Url = Annotated[str, typer.Option(help="Where the proxy listens for apps.", envvar="SOTTOVOCE_URL")]
ApiKey = Annotated[str | None, typer.Option(help="@FILE with the key of an account.", envvar="SOTTOVOCE_API_KEY_FILE")]
Token = Annotated[str | None, typer.Option(help="@FILE with the proxy's token.", envvar=None)]
JobId = Annotated[str, typer.Argument(help="The id of a job.", metavar="JOB")]
Name = Annotated[str, typer.Argument(help="Its name.")]
AccountName = Annotated[str, typer.Argument(help="The name of an account.", metavar="ACCOUNT")]


def _fail(message: str, code: ExitCode = ExitCode.INTERNAL) -> None:
    typer.secho(message, fg=typer.colors.RED, err=True)
    raise typer.Exit(code)


def _secret(reference: str, flag: str) -> str:
    try:
        return Path(reference.removeprefix("@")).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise typer.BadParameter("its file cannot be read", param_hint=flag) from None


def _asked(url: str, api_key: str | None, token: str | None, ask: Callable[[Caller], Coroutine[Any, Any, T]]) -> T:
    from proxy.client.jobs import Caller  # noqa: PLC0415
    from proxy.client.transcribe import ClientError  # noqa: PLC0415

    headers = {"Authorization": f"Bearer {_secret(api_key, '--api-key')}"} if api_key else {}
    headers |= {"X-Sottovoce-Token": _secret(token, "--token")} if token else {}
    try:
        return asyncio.run(ask(Caller(url, headers)))
    except ClientError as exc:
        _fail(str(exc), exc.exit_code)
        raise


@jobs.command()
def submit(
    recordings: Annotated[list[str], typer.Argument(help="Files, or links to them.")],
    *,
    url: Url = _URL,
    model: Annotated[str | None, typer.Option(help="Model; the first that the engine serves by default.")] = None,
    language: Annotated[str | None, typer.Option(help="Language spoken, such as `en`.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What came before, or how things are spelled.")] = None,
    words: Annotated[bool, typer.Option("--words", help="Times of words.")] = False,
    diarize: Annotated[bool, typer.Option("--diarize", help="Tell speakers apart.")] = False,
    speaker_count: Annotated[int | None, typer.Option(help="How many speakers there are.", min=1, max=50)] = None,
    speaker: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE: somebody, and 2 to 10 s of their voice.")
    ] = None,
    channels: Annotated[bool, typer.Option("--channels", help="Hear each of two channels by itself.")] = False,
    summary: Annotated[bool, typer.Option("--summary", help="A summary and topics.")] = False,
    redact: Annotated[list[str] | None, typer.Option(help="Personal data to leave out, or `all`.")] = None,
    start_s: Annotated[float | None, typer.Option(help="From here on, in seconds.", min=0)] = None,
    end_s: Annotated[float | None, typer.Option(help="Up to here, in seconds.", min=0)] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="NAME=TEXT, told again with the job.")] = None,
    priority: Annotated[str | None, typer.Option(help="low, normal or high.")] = None,
    delete_after_s: Annotated[int | None, typer.Option(help="Forget it so long after its end.", min=0)] = None,
    webhook_url: Annotated[str | None, typer.Option(help="Who is told when it is over.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all are over.")] = False,
    api_key: ApiKey = None,
    token: Token = None,
) -> None:
    """Submit recordings; each is a job, whose id is printed."""
    from proxy.client import jobs as client  # noqa: PLC0415

    flags = {"words": words, "diarize": diarize, "channels": channels, "summary": summary}
    given: dict[str, str | list[str] | dict[str, str] | None] = {
        "model": model,
        "language": language,
        "prompt": prompt,
        **{name: "true" for name, flag in flags.items() if flag},
        "redact": redact,
        "start_s": None if start_s is None else str(start_s),
        "end_s": None if end_s is None else str(end_s),
        "metadata": _pairs(metadata),
        "priority": priority,
        **_voices(speaker),
        "speaker_count": None if speaker_count is None else str(speaker_count),
        "delete_after_s": None if delete_after_s is None else str(delete_after_s),
        "webhook_url": webhook_url,
    }
    fields = {name: value for name, value in given.items() if value}
    on_terminal = sys.stderr.isatty()

    async def ask(caller: Caller) -> list[str]:
        made = []
        async for job in client.submit(caller, tuple(recordings), fields, shown=on_terminal):
            typer.echo(job)
            made.append(job)
        return [fault for job in made if (fault := await _fault(caller, job))] if wait else []

    async def _fault(caller: Caller, job: str) -> str:
        ended = await client.wait(caller, job, shown=on_terminal)
        return "" if ended["status"] == "completed" else f"{job} {ended['status']}: {ended['failure']['message']}"

    if faults := _asked(url, api_key, token, ask):
        _fail("\n".join(faults))


def _pairs(given: list[str] | None, option: str = "--metadata", form: str = "NAME=TEXT") -> dict[str, str]:
    pairs = [each.partition("=") for each in given or ()]
    if not all(name and equals for name, equals, _ in pairs):
        raise typer.BadParameter(form, param_hint=option)
    return {name: text for name, _, text in pairs}


def _voices(given: list[str] | None) -> dict[str, list[str]]:
    """Fields with names and recordings, these as data URLs."""
    from proxy.client.jobs import data_url  # noqa: PLC0415
    from proxy.client.transcribe import ClientError  # noqa: PLC0415

    files = _pairs(given, "--speaker", "NAME=FILE")
    try:
        references = [data_url(Path(file)) for file in files.values()]
    except ClientError as exc:
        _fail(str(exc), exc.exit_code)
        raise
    return {"known_speaker_names": list(files), "known_speaker_references": references}


@jobs.command("list")
def list_jobs(
    *,
    url: Url = _URL,
    status: Annotated[str | None, typer.Option(help="Only those with this status.")] = None,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=200)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on where another list ended.")] = None,
    api_key: ApiKey = None,
    token: Token = None,
) -> None:
    """List jobs, newest first."""
    from proxy.client import jobs as client  # noqa: PLC0415

    given = {"status": status, "limit": str(limit), "cursor": cursor}
    query = {name: value for name, value in given.items() if value is not None}
    _asked(url, api_key, token, lambda caller: client.show_list(caller, query, Console()))


@jobs.command()
def show(
    job: JobId,
    *,
    url: Url = _URL,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is over.")] = False,
    api_key: ApiKey = None,
    token: Token = None,
) -> None:
    """Show a job."""
    from proxy.client import jobs as client  # noqa: PLC0415

    async def ask(caller: Caller) -> str:
        found = client.wait(caller, job, shown=sys.stderr.isatty()) if wait else client.show(caller, job)
        return client.shown(await found)

    typer.echo(_asked(url, api_key, token, ask))


@jobs.command()
def cancel(job: JobId, *, url: Url = _URL, api_key: ApiKey = None, token: Token = None) -> None:
    """End a job that is not over."""
    from proxy.client import jobs as client  # noqa: PLC0415

    typer.echo(_asked(url, api_key, token, lambda caller: client.cancel(caller, job)))


@jobs.command()
def delete(job: JobId, *, url: Url = _URL, api_key: ApiKey = None, token: Token = None) -> None:
    """Forget the content of a job that is over."""
    from proxy.client import jobs as client  # noqa: PLC0415

    _asked(url, api_key, token, lambda caller: client.delete(caller, job))


@jobs.command()
def export(
    job: JobId,
    *,
    url: Url = _URL,
    wanted: Annotated[str, typer.Option("--format", help="json, text, srt or vtt.")] = "text",
    mode: Annotated[str | None, typer.Option("--output-mode", help="raw, clean or agent.")] = None,
    max_words: Annotated[int | None, typer.Option(help="Words in a caption.", min=1, max=50)] = None,
    max_chars: Annotated[int | None, typer.Option(help="Characters in a caption.", min=10, max=500)] = None,
    max_duration: Annotated[int | None, typer.Option(help="Seconds of a caption.", min=1, max=60)] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File; standard output by default.")] = None,
    api_key: ApiKey = None,
    token: Token = None,
) -> None:
    """Print what was heard, or keep it in a file."""
    from proxy.client import jobs as client  # noqa: PLC0415

    if wanted not in ("json", "text", "srt", "vtt"):
        raise typer.BadParameter("json, text, srt or vtt", param_hint="--format")
    given = {"output_mode": mode, "max_words": max_words, "max_chars": max_chars, "max_duration": max_duration}
    query = {"format": wanted} | {name: str(value) for name, value in given.items() if value is not None}
    _put(_asked(url, api_key, token, lambda caller: client.export(caller, job, query)), output)


@jobs.command("receipts")
def receipts_of(
    job: JobId,
    *,
    url: Url = _URL,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File; standard output by default.")] = None,
    api_key: ApiKey = None,
    token: Token = None,
) -> None:
    """Print what engines signed of its parts, for `sottovoce receipts verify`."""
    from proxy.client import jobs as client  # noqa: PLC0415

    _put(_asked(url, api_key, token, lambda caller: client.receipts(caller, job)), output)


def _put(body: bytes, output: Path | None) -> None:
    if output is None:
        sys.stdout.buffer.write(body)
    else:
        output.write_bytes(body)


def _kept(settings: JobsOptions, work: Callable[[Kept], Awaitable[T]]) -> T:
    """Do something with what is kept, beside the proxy that may be running."""
    try:
        from proxy.jobs.errors import ConflictError, LedgerError, MissingError, StoreError, VaultError  # noqa: PLC0415
        from proxy.jobs.service import kept, places_of  # noqa: PLC0415
    except ImportError as exc:
        _fail(f"jobs need the extra `jobs`: {exc.name} is not installed", ExitCode.USAGE)
        raise

    async def opened() -> T:
        async with kept(places_of(settings, os.environ), alone=False) as store:
            return await work(store)

    try:
        return asyncio.run(opened())
    except MissingError:
        _fail("there is no account, plan or key of that name", ExitCode.USAGE)
        raise
    except (ConflictError, ValueError) as exc:
        _fail(str(exc), ExitCode.USAGE)
        raise
    except (LedgerError, StoreError, VaultError) as exc:
        _fail(str(exc))
        raise


@jobs.command("rotate-key")
@settings_command(JobsOptions)
def rotate_key(
    settings: JobsOptions,
    *,
    given: Annotated[
        bool,
        typer.Option("--given", help="The first key is new already, as in a Kubernetes Secret; keys stay as they are."),
    ] = False,
) -> None:
    """Put a new key in front of the others, wrap everything under it, and take the old ones out."""
    from proxy.jobs.rotation import rotate  # noqa: PLC0415

    async def work(store: Kept) -> int:
        return await rotate(store.database, store.records, store.vault, given=given)

    typer.echo(f"{_kept(settings, work)} keys of records are wrapped anew")


@jobs.command("webhook-secret")
@settings_command(JobsOptions)
def webhook_secret(
    settings: JobsOptions, *, account: Annotated[str, typer.Option(help="The name of an account.")] = "local"
) -> None:
    """Show the secret with which receivers of an account's webhooks verify them."""
    from proxy.jobs.webhooks import account_secret  # noqa: PLC0415

    async def work(store: Kept) -> str:
        return account_secret(store.pepper, (await store.accounts.named(account)).id).shown()

    typer.echo(_kept(settings, work))


@accounts.command("add")
@settings_command(JobsOptions)
def add_account(
    settings: JobsOptions, name: Name, *, plan: Annotated[str, typer.Option(help="The name of its plan.")]
) -> None:
    """Make an account."""
    typer.echo(_kept(settings, lambda store: store.accounts.add(name, plan)).id)


@accounts.command("move")
@settings_command(JobsOptions)
def move_account(
    settings: JobsOptions, account: AccountName, *, plan: Annotated[str, typer.Option(help="The name of a plan.")]
) -> None:
    """Put an account on another plan."""

    async def work(store: Kept) -> None:
        await store.accounts.move((await store.accounts.named(account)).id, plan)

    _kept(settings, work)


@accounts.command("list")
@settings_command(JobsOptions)
def list_accounts(settings: JobsOptions) -> None:
    """List accounts."""
    table = Table("name", Column("id", min_width=_ID_WIDTH), "plan", box=None)
    for account in _kept(settings, lambda store: store.accounts.all()):
        table.add_row(account.name, account.id, account.plan.name)
    Console().print(table)


@plans.command("set")
@settings_command(JobsOptions)
def set_plan(
    settings: JobsOptions,
    name: Name,
    *,
    meter: Annotated[str, typer.Option(help="none, hours_28d, cents or credits.")] = "none",
    price_per_hour: Annotated[str, typer.Option(help="In the meter's unit.")] = "0",
    quota_h: Annotated[float | None, typer.Option(help="Hours in 28 days.", min=0)] = None,
    concurrency: Annotated[int | None, typer.Option(help="Jobs at a time.", min=1)] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Of Privocio's API.", min=1)] = None,
    max_audio_s: Annotated[float | None, typer.Option(help="Longest recording.", min=1)] = None,
    max_file_bytes: Annotated[int | None, typer.Option(help="Largest recording.", min=1)] = None,
    max_active_keys: Annotated[int | None, typer.Option(help="Keys of one account.", min=0)] = None,
) -> None:
    """Make a plan, or change one for everybody who is on it."""
    from proxy.jobs.model import Meter, PlanTerms  # noqa: PLC0415

    try:
        terms = PlanTerms(
            name=name,
            meter=Meter(meter),
            price_per_hour=_amount(price_per_hour),
            quota_ms=None if quota_h is None else round(quota_h * _HOUR_MS),
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            max_audio_ms=None if max_audio_s is None else round(max_audio_s * 1000),
            max_upload_bytes=max_file_bytes,
            max_active_keys=max_active_keys,
        )
    except ValueError:
        raise typer.BadParameter("none, hours_28d, cents or credits", param_hint="--meter") from None
    _kept(settings, lambda store: store.accounts.put_plan(terms))


@plans.command("list")
@settings_command(JobsOptions)
def list_plans(settings: JobsOptions) -> None:
    """List plans."""
    names = ("hours in 28 days", "jobs at a time", "requests a minute", "longest, s", "largest, bytes", "keys")
    table = Table("name", "meter", "price an hour", *names, box=None)
    for plan in _kept(settings, lambda store: store.accounts.plans()):
        hours = None if plan.quota_ms is None else plan.quota_ms / _HOUR_MS
        longest_s = None if plan.max_audio_ms is None else plan.max_audio_ms / 1000
        limits = (hours, plan.concurrency, plan.requests_per_minute, longest_s, plan.max_upload_bytes)
        shown = [_or_any(each) for each in (*limits, plan.max_active_keys)]
        table.add_row(plan.name, plan.meter.value, f"{plan.price_per_hour:f}", *shown)
    Console().print(table)


def _or_any(limit: float | None) -> str:
    return "any" if limit is None else f"{limit:.10g}"


@keys.command("add")
@settings_command(JobsOptions)
def add_key(
    settings: JobsOptions,
    account: AccountName,
    *,
    name: Annotated[str, typer.Option(help="What it is for.")] = "key",
    days: Annotated[float | None, typer.Option(help="How long it is good; for ever by default.", min=0)] = None,
) -> None:
    """Make a key and print it: nobody can find it out again."""
    lifetime_ms = None if days is None else round(days * _DAY_MS)

    async def work(store: Kept) -> str:
        owner = await store.accounts.named(account)
        _, text = await store.accounts.add_key(owner.id, name, lifetime_ms=lifetime_ms)
        return text

    typer.echo(_kept(settings, work))


@keys.command("session")
@settings_command(JobsOptions)
def add_session(
    settings: JobsOptions,
    account: AccountName,
    *,
    hours: Annotated[float, typer.Option(help="How long it is good.", min=0)] = 12,
) -> None:
    """Sign somebody in: print a token that does what a key does, and manages the keys of its account."""

    async def work(store: Kept) -> str:
        owner = await store.accounts.named(account)
        _, text = await store.accounts.add_session(owner.id, lifetime_ms=round(hours * _HOUR_MS))
        return text

    typer.echo(_kept(settings, work))


@keys.command("list")
@settings_command(JobsOptions)
def list_keys(settings: JobsOptions, account: AccountName) -> None:
    """List the keys and sessions of an account, by how they begin."""

    async def work(store: Kept) -> list[tuple[str, str, str, str]]:
        found = await store.accounts.keys((await store.accounts.named(account)).id)
        return [(key.id, key.name, key.prefix, "revoked" if key.revoked_ms else "") for key in found]

    table = Table(Column("id", min_width=_ID_WIDTH), "name", "begins", "", box=None)
    for row in _kept(settings, work):
        table.add_row(*row)
    Console().print(table)


@keys.command("revoke")
@settings_command(JobsOptions)
def revoke_key(
    settings: JobsOptions, account: AccountName, key: Annotated[str, typer.Argument(help="The id of a key.")]
) -> None:
    """Revoke a key or a session."""
    from proxy.jobs.model import KeyId  # noqa: PLC0415

    async def work(store: Kept) -> None:
        await store.accounts.revoke((await store.accounts.named(account)).id, KeyId(key))

    _kept(settings, work)


@balance.command("show")
@settings_command(JobsOptions)
def show_balance(settings: JobsOptions, account: AccountName) -> None:
    """Show what an account has."""

    async def work(store: Kept) -> str:
        found = await store.accounts.balance((await store.accounts.named(account)).id)
        return f"{found.available:f} {found.unit.value} ({found.total:f}, of which {found.held:f} are held)"

    typer.echo(_kept(settings, work))


@balance.command("check")
@settings_command(JobsOptions)
def check_balance(
    settings: JobsOptions, account: Annotated[str | None, typer.Argument(help="Its name; all by default.")] = None
) -> None:
    """Read every line of the ledger and say whether each is as it was written.

    Number and mac of the last line, written down elsewhere, tell later whether an older state was put back.
    """
    from proxy.jobs.errors import LedgerError  # noqa: PLC0415

    async def work(store: Kept) -> bool:
        found = await store.accounts.all() if account is None else [await store.accounts.named(account)]
        is_well = True
        for each in found:
            try:
                head = await store.accounts.check(each.id)
            except LedgerError as exc:
                typer.secho(f"{each.name}: {exc}", fg=typer.colors.RED)
                is_well = False
            else:
                typer.echo(f"{each.name}: {head.number} lines, the last {head.mac.hex()[:16] or '-'}")
        return is_well

    if not _kept(settings, work):
        _fail("the ledger is not as it was written: no more is added to these accounts")


@balance.command("add")
@settings_command(JobsOptions)
def add_balance(
    settings: JobsOptions,
    account: AccountName,
    amount: Annotated[str, typer.Argument(help="In the unit of its plan.")],
    *,
    correct: Annotated[bool, typer.Option("--correct", help="A correction, which may be negative.")] = False,
) -> None:
    """Pay in for an account."""

    async def work(store: Kept) -> str:
        owner = await store.accounts.named(account)
        return f"{(await store.accounts.pay_in(owner.id, _amount(amount), by_hand=correct)).available:f}"

    typer.echo(_kept(settings, work))


def _amount(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise typer.BadParameter("not an amount") from None
    if not amount.is_finite():
        raise typer.BadParameter("not an amount")
    return amount
