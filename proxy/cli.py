"""The command line of the user's side: `sottovoce`.

Exit codes: 0 done, 1 failed, 2 not to be done as it was asked, 10 the engine was refused.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from attestation.program import ExitCode, VersionOption, configure_logging, run, settings_command
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
    from proxy import app as proxy_app  # the server's libraries are loaded only to serve  # noqa: PLC0415

    configure_logging(settings.log_format, settings.log_level)
    try:
        run(proxy_app.serve(settings))
    except proxy_app.StartError as exc:
        _fail(str(exc), ExitCode.USAGE)
    except OSError as exc:
        _fail(f"cannot listen: {exc.strerror or type(exc).__name__}", ExitCode.USAGE)


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
    from proxy.transcribe import ClientError, Job, transcribe_all  # noqa: PLC0415

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
def status(
    url: Url = _URL,
    status_url: Annotated[str, typer.Option(help="Where the proxy serves health.")] = _STATUS_URL,
    api_key: ApiKey = None,
    token: Token = None,
) -> None:
    """Show what the local proxy has verified, check by check."""
    from proxy.transcribe import ClientError, show_status  # noqa: PLC0415

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
    app()
