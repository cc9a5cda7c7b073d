"""Whatever is asked of /v1/jobs by its own document, in its words or beside them, is answered as the document says."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from typing import Any

import aiohttp
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from proxy.app import RunningProxy
from tests.proxy.conftest import url_of
from tests.proxy.dialects.own.test_api import SPEC, options, over, proxy, submitted, verbose
from tests.proxy.fake_engine import FakeEngine, Script

__all__ = ["options", "proxy"]

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = [
    (path, method) for path, found in SPEC["paths"].items() for method in found if method in ("get", "post", "delete")
]
MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]


def tried(operation: Any, mode: Any, url: str, job: str) -> None:
    @settings(max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def each(case: Any) -> None:
        if "id" in (case.path_parameters or {}):
            case.path_parameters["id"] = job
        case.call_and_validate(base_url=url, checks=CHECKS)

    each()


async def completed(proxy: RunningProxy, engine: FakeEngine) -> str:
    engine.default = Script(play=verbose)
    async with aiohttp.ClientSession(url_of(proxy)) as app:
        return str((await over(app, await submitted(app)))["id"])


@pytest.mark.parametrize("mode", MODES, ids=["as-documented", "otherwise"])
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
async def test_answers_are_as_documented(
    proxy: RunningProxy, engine: FakeEngine, path: str, method: str, mode: Any
) -> None:
    job = await completed(proxy, engine)
    operation = schemathesis.openapi.from_dict(SPEC)[path][method.upper()]
    await asyncio.to_thread(tried, operation, mode, url_of(proxy), job)


async def test_an_answer_that_is_not_as_documented_is_found(proxy: RunningProxy, engine: FakeEngine) -> None:
    spec = deepcopy(SPEC)
    spec["components"]["schemas"]["Job"]["properties"]["status"] = {"const": "pending"}
    job = await completed(proxy, engine)
    operation = schemathesis.openapi.from_dict(spec)["/v1/jobs/{id}"]["GET"]
    with pytest.raises(FailureGroup):
        await asyncio.to_thread(tried, operation, MODES[0], url_of(proxy), job)
