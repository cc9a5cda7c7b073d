"""A setting is the same in every program: flag, variable and key of one name, and nothing else bears that name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from attestation.cli.main import VerifySettings
from attestation.cli.main import app as attest
from attestation.release.trust import PolicyTrust, SigstoreTrust, TrustOptions
from core.program.run import ExitCode
from core.program.settings import load_settings
from engine.commands import app as engine
from proxy.cli import app as sottovoce
from proxy.settings import ProxySettings
from tests.attestation.policies import KEY, OTHER_KEY, SNP, release, written

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

Command = Callable[..., Any]


def _commands(app: typer.Typer, name: str) -> Iterator[tuple[str, Command]]:
    for command in app.registered_commands:
        assert command.callback is not None
        yield f"{name} {command.name or command.callback.__name__}", command.callback
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from _commands(group.typer_instance, f"{name} {group.name}")


COMMANDS = {
    **dict(_commands(sottovoce, "sottovoce")),
    **dict(_commands(engine, "sottovoce-engine")),
    **dict(_commands(attest, "sottovoce-attest")),
}
SETTINGS = {name: command.settings for name, command in COMMANDS.items() if hasattr(command, "settings")}

ON_WHAT_IS_KEPT = {
    "sottovoce jobs rotate-key",
    "sottovoce jobs webhook-secret",
    *(f"sottovoce accounts {act}" for act in ("add", "list", "move")),
    *(f"sottovoce keys {act}" for act in ("add", "list", "revoke", "session")),
    "sottovoce balance check",
    *(f"sottovoce plans {act}" for act in ("list", "set")),
    *(f"sottovoce balance {act}" for act in ("add", "show")),
}
OF_A_CALL = {
    # A client of the proxy: the key is the one for the proxy's `Authorization`, its token the proxy's.
    "sottovoce transcribe": {"api_key", "token", "model"},
    "sottovoce live": {"api_key", "token", "model"},
    "sottovoce status": {"api_key", "token"},
    **{
        f"sottovoce jobs {act}": {"api_key", "token"}
        for act in ("cancel", "delete", "export", "list", "receipts", "show")
    },
    "sottovoce jobs submit": {"api_key", "token", "model"},
    # The engine's file of API keys, by the engine's own flag and variable.
    **{f"sottovoce-engine keys {act}": {"api_keys"} for act in ("add", "list", "revoke")},
    # The file that is signed.
    "sottovoce-attest policy sign": {"policy"},
}


def _own(name: str) -> set[str]:
    """What a command takes that is no setting."""
    settings = SETTINGS[name].model_fields if name in SETTINGS else {}
    return set(inspect.signature(COMMANDS[name]).parameters) - set(settings)


def test_the_programs_that_take_settings_are_known() -> None:
    assert set(SETTINGS) == {
        "sottovoce proxy",
        "sottovoce doctor",
        "sottovoce receipts verify",
        *ON_WHAT_IS_KEPT,
        "sottovoce config show",
        "sottovoce config check",
        "sottovoce-engine serve",
        "sottovoce-engine config show",
        "sottovoce-engine config check",
        "sottovoce-attest collect",
        "sottovoce-attest inspect",
        "sottovoce-attest verify",
        "sottovoce-attest policy check",
        "sottovoce-attest log verify",
        "sottovoce-attest log show",
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_on_the_command_line(name: str) -> None:
    parameters = inspect.signature(COMMANDS[name]).parameters
    for setting in SETTINGS[name].model_fields:
        declared = getattr(parameters[setting].default, "param_decls", None)
        flag = "--" + setting.replace("_", "-")
        assert declared is None or declared[0].partition("/")[0] == flag  # or it is the command's argument


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_a_setting_in_one_program_is_one_in_all(name: str) -> None:
    settings = {setting for kind in SETTINGS.values() for setting in kind.model_fields}
    assert _own(name) & settings == OF_A_CALL.get(name, set())


_SIGNERS = [str(KEY.signer), str(OTHER_KEY.signer)]
WAYS: dict[str, tuple[list[str], str, str]] = {
    "policy": (["p"], "p", '"p"'),
    "policy_signer": (_SIGNERS, ", ".join(_SIGNERS), str(_SIGNERS)),
    "policy_sigstore_root": (["r"], "r", '"r"'),
    "policy_sigstore_identity": (["who"], "who", '"who"'),
    "policy_sigstore_issuer": (["by whom"], "by whom", '"by whom"'),
    "min_policy_version": (["3"], "3", "3"),
    "state_dir": (["s"], "s", '"s"'),
    "require_pq": (["true"], "true", "true"),
}
"""Of each option of trust: its values on the command line, in a variable, and in a file."""

EXPECTED = PolicyTrust(
    (KEY.signer, OTHER_KEY.signer), 3, Path("s"), SigstoreTrust(Path("r"), "who", "by whom"), require_pq=True
)


def test_every_option_of_trust_is_tried() -> None:
    assert set(WAYS) == set(TrustOptions.model_fields) - {"config", "log_format", "log_level"}


@pytest.mark.parametrize("way", ["flags", "variables", "file"])
@pytest.mark.parametrize("kind", [TrustOptions, VerifySettings, ProxySettings])
def test_trust_is_told_in_the_same_way_to_every_program(
    kind: type[TrustOptions], way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p").touch()
    engine = {"engine": "http://127.0.0.1:8800"} if kind is ProxySettings else {}
    given: dict[str, Any] = {}
    if way == "flags":
        given = {name: values if name == "policy_signer" else values[-1] for name, (values, _, _) in WAYS.items()}
    if way == "variables":
        for name, (_, variable, _) in WAYS.items():
            monkeypatch.setenv(f"SOTTOVOCE_{name.upper()}", variable)
    if way == "file":
        given = {"config": str(tmp_path / "settings.toml")}
        (tmp_path / "settings.toml").write_text("".join(f"{name} = {line}\n" for name, (_, _, line) in WAYS.items()))
    settings = load_settings(kind, {**engine, **given})
    assert (settings.policy, settings.policy_trust) == (Path("p"), EXPECTED)


def test_a_signer_that_a_variable_names_is_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, SNP + release(7))  # which nobody signed
    for arguments in (["policy", "check", str(path)], ["verify", "http://127.0.0.1:1", "--policy", str(path)]):
        alone = CliRunner().invoke(attest, arguments, env={"SOTTOVOCE_POLICY_SIGNER": "", "COLUMNS": "400"})
        pinned = CliRunner().invoke(
            attest, arguments, env={"SOTTOVOCE_POLICY_SIGNER": str(KEY.signer), "COLUMNS": "400"}
        )
        assert "policy.toml.sig" not in alone.output
        assert pinned.exit_code in (ExitCode.USAGE, ExitCode.REFUSED)
        assert "policy.toml.sig: No such file" in pinned.output
