"""What does this engine claim? All that its statement says, but for the key and the end of each epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attestation.policy import Policy
from attestation.statement import (
    Component,
    EffectiveConfig,
    LoadedModel,
    ModelIdentity,
    Statement,
    encode_statement,
    live_keys_extension,
)
from attestation.types import StatementBytes
from core.channel.keyconfig import KeyConfig
from engine.backends.choose import Backend
from engine.backends.weights import Weights
from engine.identity.self_check import SELF_POLICY
from engine.openai.models import ModelCatalogue
from engine.settings import MAX_REQUEST_BYTES, EngineSettings
from engine.speech.transcriber import Component as Hearing

MAX_CHUNK_BYTES = 65_536

SPEAKER_MODEL = "speakers"
"""What the models that tell speakers apart are called in a statement, and in the policies that judge it."""

Claims = Callable[[Sequence[KeyConfig], Sequence[KeyConfig], int], StatementBytes]
"""The statement of an epoch, from its keys, those of live sessions, and the Unix time at which it is over."""


def claims_of(
    settings: EngineSettings,
    catalogue: ModelCatalogue,
    backend: Backend,
    weights: Mapping[str, Weights],
    policy: Policy | None,
    *,
    instance: str,
    evidence_from: str,
    receipt_key: bytes | None = None,
    speaker_weights: Weights | None = None,
    writer_weights: Weights | None = None,
) -> Claims:
    """What this engine claims in every epoch.

    weights: what each model is loaded from, held. speaker_weights: what those are loaded from that tell speakers apart,
    and writer_weights: that which writes summaries; likewise. instance: the name of this start. policy: the one that
    the engine holds itself to. Raises BackendError.
    """
    digests = {name: held.digest for name, held in weights.items()}
    models = tuple(ModelIdentity(model.id, model.aliases, digests[model.id]) for model in catalogue.models)
    recognising = tuple(LoadedModel(name, digest) for name, digest in digests.items())
    loaded: dict[Hearing | None, tuple[LoadedModel, ...]] = {}
    if backend.diarizer:
        told_by = (LoadedModel(SPEAKER_MODEL, speaker_weights.digest),) if speaker_weights else ()
        loaded[backend.diarizer.component] = told_by
    if backend.writer and writer_weights:
        loaded[backend.writer.component] = (LoadedModel(backend.writer.name, writer_weights.digest),)
    config = EffectiveConfig(
        components=tuple(_confessed(each, loaded.get(each, recognising)) for each in backend.components),
        log_level=settings.log_level.value,
        api_keys_required=settings.api_keys is not None,
        request_log=settings.log_requests,
        insecure_options=settings.insecure_options,
        evidence_from=evidence_from,
    )

    def claims(keys: Sequence[KeyConfig], live_keys: Sequence[KeyConfig], not_after: int) -> StatementBytes:
        return encode_statement(
            Statement(
                version=1,
                instance=instance,
                ohttp_keys=tuple(keys),
                not_after=not_after,
                max_chunk_bytes=MAX_CHUNK_BYTES,
                max_request_bytes=MAX_REQUEST_BYTES,
                models=models,
                config=config,
                tls_spki_sha256=None,
                receipt_key=receipt_key,
                extensions={
                    **({SELF_POLICY: policy.digest} if policy else {}),
                    **live_keys_extension(live_keys),
                },
            )
        )

    return claims


def _confessed(component: Hearing, loaded: tuple[LoadedModel, ...]) -> Component:
    """A process that hears or reads what was said, with the models that it loaded."""
    return Component(component.name, component.arguments, component.attached, component.plugins, loaded)
