"""The command line of the user's side: `sottovoce`.

Exit codes: 0 done, 1 failed, 2 not to be done as it was asked, 10 the engine was refused.
"""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from core.program.commands import VersionOption, flags_command, settings_command
from core.program.configuration import config_commands, warn_of_unknown_variables
from core.program.logs import LogFormat, LogLevel, configure_logging
from core.program.memory import keep_memory_private
from core.program.run import ExitCode, run
from core.program.settings import SettingsError, Values, read_settings
from proxy import jobs_commands, receipts_commands
from proxy.settings import DEFAULT_PORT, DEFAULT_STATUS_LISTEN, ProxySettings

app = typer.Typer(
    name="sottovoce",
    help="Speech-to-text that only the attested machine hears.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_URL = f"http://127.0.0.1:{DEFAULT_PORT}"
_STATUS_URL = f"http://{DEFAULT_STATUS_LISTEN}"

Url = Annotated[str, typer.Option(help="Where the proxy listens for apps.", envvar="SOTTOVOCE_URL")]
ApiKey = Annotated[
    str | None,
    typer.Option(help="@FILE with what goes into Authorization: Bearer.", envvar="SOTTOVOCE_API_KEY_FILE"),
]
Token = Annotated[
    str | None, typer.Option(help="@FILE with the proxy's token, where the proxy holds no API key.", envvar=None)
]


@app.callback()
def root(_version: VersionOption = False) -> None:
    """Speech-to-text that only the attested machine hears."""


@app.command("proxy")
@settings_command(ProxySettings)
def serve(settings: ProxySettings) -> None:
    """Verify the engine, then seal every request of local apps to it."""
    # The server's libraries are loaded only to serve.
    from proxy.app import serve as serve_apps  # noqa: PLC0415
    from proxy.sender import StartError  # noqa: PLC0415

    configure_logging(settings.log_format, settings.log_level)
    warn_of_unknown_variables(ProxySettings)
    try:
        run(serve_apps(settings))
    except StartError as exc:
        _fail(str(exc), ExitCode.USAGE)
    except OSError as exc:
        _fail(f"cannot listen: {exc.strerror or type(exc).__name__}", ExitCode.USAGE)


def _faults(settings: ProxySettings) -> list[str]:
    from proxy.doctor.configuration import start_faults  # noqa: PLC0415

    return start_faults(settings, os.environ, datetime.now(UTC))


for name, commands in (
    ("jobs", jobs_commands.jobs),
    ("accounts", jobs_commands.accounts),
    ("keys", jobs_commands.keys),
    ("plans", jobs_commands.plans),
    ("balance", jobs_commands.balance),
):
    app.add_typer(commands, name=name)
app.add_typer(receipts_commands.receipts, name="receipts")
app.add_typer(config_commands(ProxySettings, "sottovoce proxy", _faults), name="config")


def _settings_or_faults(flags: Values) -> ProxySettings | SettingsError:
    try:
        return read_settings(ProxySettings, flags)
    except SettingsError as exc:
        return exc


@app.command()
@flags_command(ProxySettings, _settings_or_faults)
def doctor(
    settings: ProxySettings | SettingsError,
    *,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    sentence: Annotated[bool, typer.Option(help="Transcribe a sentence, eleven seconds for the API key.")] = True,
) -> None:
    """Say what keeps recordings from becoming text, and what to do about it."""
    from proxy.doctor.examination import examine  # noqa: PLC0415
    from proxy.doctor.report import tell  # noqa: PLC0415

    configure_logging(LogFormat.AUTO, LogLevel.ERROR)  # what a log would warn of is found and told in order
    run(tell(examine(settings, sentence=sentence), as_json=json_output))


@app.command()
def transcribe(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Recordings.")],
    *,
    url: Url = _URL,
    model: Annotated[str | None, typer.Option(help="Model; the first that the engine serves by default.")] = None,
    language: Annotated[str | None, typer.Option(help="Language spoken, such as `en`.")] = None,
    response_format: Annotated[str, typer.Option("--format", help="text, json, verbose_json, srt or vtt.")] = "text",
    stream: Annotated[bool, typer.Option("--stream", help="Print the text while it is recognised.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File, or directory when there are several recordings.")
    ] = None,
    api_key: ApiKey = None,
    token: Token = None,
) -> None:
    """Transcribe recordings through the local proxy."""
    from proxy.client.transcribe import ClientError, Job, transcribe_all  # noqa: PLC0415

    if response_format not in ("text", "json", "verbose_json", "srt", "vtt"):
        raise typer.BadParameter("text, json, verbose_json, srt or vtt", param_hint="--format")
    if stream and response_format != "text":
        raise typer.BadParameter("only text can be streamed", param_hint="--stream")
    if output is not None and len(files) > 1 and not output.is_dir():
        raise typer.BadParameter("must be a directory when there are several recordings", param_hint="--output")
    job = Job(url, tuple(files), model, language, response_format, stream, output, _headers(api_key, token))
    try:
        asyncio.run(transcribe_all(job, terminal=sys.stderr.isatty()))
    except ClientError as exc:
        _fail(str(exc), exc.exit_code)


@app.command()
def live(
    source: Annotated[
        str | None,
        typer.Argument(help="Recording, or `-` for raw PCM on standard input; without it, the microphone."),
    ] = None,
    *,
    url: Url = _URL,
    model: Annotated[str | None, typer.Option(help="Model; the first that the engine serves by default.")] = None,
    language: Annotated[str | None, typer.Option(help="Language spoken, such as `en`.")] = None,
    rate_hz: Annotated[
        int, typer.Option("--rate", min=8_000, max=24_000, help="Of 16-bit mono PCM on standard input, in Hz.")
    ] = 24_000,
    pace: Annotated[bool, typer.Option("--pace", help="Send no faster than it was said.")] = False,
    api_key: ApiKey = None,
    token: Token = None,
) -> None:
    """Show what is being said: words as they come, and each turn's text as soon as it is final."""
    from proxy.client.live import LiveJob, transcribe_live  # noqa: PLC0415
    from proxy.client.sources import RATE_HZ, microphone, raw_pcm, recording  # noqa: PLC0415
    from proxy.client.transcribe import ClientError  # noqa: PLC0415

    if source not in (None, "-") and not Path(source).is_file():
        raise typer.BadParameter("no such recording", param_hint="SOURCE")
    try:
        if source is None:
            pieces, rate_hz = microphone(), RATE_HZ
        elif source == "-":
            pieces = raw_pcm(rate_hz, sys.stdin.buffer)
        else:
            pieces, rate_hz = recording(Path(source))
        job = LiveJob(url, rate_hz, model, language, pace, _headers(api_key, token))
        asyncio.run(transcribe_live(job, pieces, terminal=sys.stdout.isatty()))
    except ClientError as exc:
        _fail(str(exc), exc.exit_code)


@app.command()
def status(
    url: Url = _URL,
    status_url: Annotated[
        str, typer.Option(help="Where the proxy serves health.", envvar="SOTTOVOCE_STATUS_URL")
    ] = _STATUS_URL,
    api_key: ApiKey = None,
    token: Token = None,
) -> None:
    """Show what the local proxy has verified, check by check."""
    from proxy.client.transcribe import ClientError, show_status  # noqa: PLC0415

    try:
        code = asyncio.run(show_status(url, status_url, _headers(api_key, token)))
    except ClientError as exc:
        _fail(str(exc), exc.exit_code)
    raise typer.Exit(code)


def _headers(api_key: str | None, token: str | None) -> dict[str, str]:
    headers = {}
    if api_key:
        headers["Authorization"] = f"Bearer {_secret(api_key, '--api-key')}"
    if token:
        headers["X-Sottovoce-Token"] = _secret(token, "--token")
    return headers


def _secret(reference: str, flag: str) -> str:
    """What is in `@FILE`; a variable names the file without the sign."""
    try:
        return Path(reference.removeprefix("@")).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise typer.BadParameter("its file cannot be read", param_hint=flag) from None


def _fail(message: str, code: ExitCode) -> None:
    typer.secho(message, fg=typer.colors.RED, err=True)
    raise typer.Exit(code)


def main() -> None:
    """Entry point of the console script."""
    keep_memory_private()  # recordings, texts and keys of whatever command
    app()
