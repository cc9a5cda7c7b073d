"""Who may open a live session, and with what does it begin?

::

    GET  /v1/realtime?intent=transcription[&model=...]   a session; `OpenAI-Beta: realtime=v1` asks for the older shape
    POST /v1/realtime/client_secrets                     a secret that opens sessions, for an app that may hold no key
    POST /v1/realtime/transcription_sessions             the same in the older shape

A secret brings its settings, which the app may change like any others. What opens it is its key: a session begun with a
secret counts as that key's.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

from core.channel.client_secrets import shown_secret
from core.program import strictjson
from core.transcript.faults import MODEL, Fault, FaultKind, option
from engine.access.authority import Authority, Caller
from engine.access.client_secrets import MAX_SESSION_BYTES, ClientSecrets, Issued
from engine.gateway.admission import Admission
from engine.gateway.exchange import Head
from engine.openai.formats import json_bytes
from engine.openai.models import ModelCatalogue
from engine.realtime.refusals import Refusal, invalid_type, invalid_value
from engine.realtime.session import RealtimeSession, Surroundings
from engine.realtime.settings import SessionSettings, Shape, default_settings, session_object
from engine.realtime.updates import updated

PATH: Final = "/v1/realtime"

MAX_BODY_BYTES: Final = 64 * 1024
MIN_LIFE_S: Final = 10
MAX_LIFE_S: Final = 7_200
DEFAULT_LIFE_S: Final = 600
BETA_LIFE_S: Final = 60


@dataclass(frozen=True, slots=True)
class Entrance:
    """Whoever comes, and what their secret says of the session."""

    caller: Caller
    settings: SessionSettings | None


class LiveDoor:
    """Opens live sessions and makes secrets for them. admission: of sessions, whatever their keys."""

    def __init__(
        self, around: Surroundings, authority: Authority, secrets: ClientSecrets, admission: Admission
    ) -> None:
        self._around = around
        self._authority = authority
        self._secrets = secrets
        self._admission = admission

    def identify(self, head: Head, source: str) -> Entrance:
        """Whose session it is to be, by a key or by a secret. Raises Fault: MISSING, or UNAUTHENTICATED."""
        authorization = head.headers.get("authorization")
        if (secret := shown_secret(authorization)) is None:
            return Entrance(self._authority.identify(authorization, source), None)
        if (issued := self._secrets.find(secret)) is None:
            raise Fault(FaultKind.UNAUTHENTICATED)
        settings = self._settings_of(strictjson.loads(issued.session, max_bytes=len(issued.session)))
        return Entrance(self._authority.recall(issued.holder, source), settings)

    async def open(self, head: Head, entrance: Entrance) -> RealtimeSession:
        """A session, for whoever has been identified. Raises Fault."""
        settings = self._begun_with(head, entrance)
        shape = Shape.BETA if "realtime=v1" in head.headers.get("openai-beta", "") else Shape.GA
        with ExitStack() as held:
            held.enter_context(self._admission.hold(0, entrance.caller.holder))
            visit = await entrance.caller.admit_live()
            held.callback(visit.end)
            return RealtimeSession(self._around, visit, held.pop_all(), settings, shape)
        raise AssertionError("a stack of callbacks suppressed an error")

    def _begun_with(self, head: Head, entrance: Entrance) -> SessionSettings:
        query = parse_qs(head.path.partition("?")[2])
        model, intent = _only(query, "model"), _only(query, "intent")
        if intent not in (None, "transcription"):
            raise Fault(FaultKind.UNSUPPORTED_VALUE, option("intent"))
        if model is not None:
            asked = {"type": "transcription", "audio": {"input": {"transcription": {"model": model}}}}
            usual = default_settings(self._around.models, model)  # which says of an unknown one that it is
            return _changed(entrance.settings, asked, self._around.models) if entrance.settings else usual
        if entrance.settings is None and intent is None:
            raise Fault(FaultKind.MISSING, MODEL)
        return entrance.settings or default_settings(self._around.models)

    def _settings_of(self, session: Any) -> SessionSettings:
        return _changed(default_settings(self._around.models), session, self._around.models)

    # --- secrets

    def make_secret(self, body: bytes, caller: Caller, shape: Shape) -> bytes:
        """The answer to whoever asks for a secret. Raises Refusal."""
        asked = _members(body)
        now = int(self._around.clock())
        life_s = BETA_LIFE_S if shape is Shape.BETA else _life_s(asked.get("expires_after"))
        session = asked if shape is Shape.BETA else asked.get("session", {"type": "transcription"})
        settings = updated(default_settings(self._around.models), session, shape, self._around.models)
        expires_at = now + life_s
        told = session_object(settings, Shape.GA, session_id=self._around.new_id("sess"), expires_at=expires_at)
        kept = {name: value for name, value in told.items() if name in ("type", "audio", "include")}
        try:
            value = self._secrets.issue(Issued(caller.holder, json_bytes(kept)), expires_at=expires_at)
        except ValueError:
            raise invalid_value("session", f"at most {MAX_SESSION_BYTES} bytes of settings") from None
        if shape is Shape.BETA:
            flat = session_object(settings, shape, session_id=str(told["id"]), expires_at=expires_at)
            return json_bytes(flat | {"client_secret": {"value": value, "expires_at": expires_at}})
        return json_bytes({"value": value, "expires_at": expires_at, "session": told})


def _only(query: dict[str, list[str]], name: str) -> str | None:
    values = query.get(name, [])
    if len(values) > 1:
        raise Fault(FaultKind.REPEATED)
    return values[0] if values else None


def _changed(settings: SessionSettings, session: Any, models: ModelCatalogue) -> SessionSettings:
    """Settings that were checked when their secret was made; of models that may have changed since. Raises Fault."""
    try:
        return updated(settings, session, Shape.GA, models)
    except Refusal:
        raise Fault(FaultKind.UNAUTHENTICATED) from None


def _members(body: bytes) -> dict[str, Any]:
    try:
        asked = strictjson.loads(body or b"{}", max_bytes=MAX_BODY_BYTES)
    except ValueError:
        raise Refusal("invalid_json", "The body must be a JSON object.") from None
    if not isinstance(asked, dict):
        raise invalid_type("body", "an object")
    return asked


def _life_s(after: Any) -> int:
    if after is None:
        return DEFAULT_LIFE_S
    if not isinstance(after, dict):
        raise invalid_type("expires_after", "an object")
    if after.get("anchor", "created_at") != "created_at":
        raise invalid_value("expires_after.anchor", "'created_at'")
    seconds = after.get("seconds", DEFAULT_LIFE_S)
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        raise invalid_type("expires_after.seconds", "an integer")
    if not MIN_LIFE_S <= seconds <= MAX_LIFE_S:
        raise invalid_value("expires_after.seconds", f"an integer from {MIN_LIFE_S} to {MAX_LIFE_S}")
    return seconds
