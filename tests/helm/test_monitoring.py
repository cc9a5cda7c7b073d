"""Do alerts, dashboard and scaling ask for metrics that exist? Does each alert fire when it should, and only then?"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser as promql
import pytest
import yaml

from tests.helm.chart import CHART, VALUES, the
from tests.places import ROOT
from tests.requirements import need

ALERTS = CHART / "files" / "alerts.yaml"
DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
DOCUMENT = ROOT / "docs" / "metrics.md"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def _published() -> dict[str, set[str]]:
    """Series by name, each with its labels, as the document lists them; others test that it lists what is published."""
    rows = re.findall(r"^\| `(sottovoce_\w+)` \| (\w+) \| (.*?) \|", DOCUMENT.read_text(), re.MULTILINE)
    series = {name: set(re.findall(r"`(\w+)`", labels)) for name, _, labels in rows}
    return series | {f"{name}_bucket": series[name] | {"le"} for name, kind, _ in rows if kind == "histogram"}


SERIES = _published()
ADDED = {"namespace", "pod", "service", "job", "instance"}
"""Labels that Prometheus adds when it scrapes."""


def _selectors(node: Any) -> Iterator[Any]:
    """Every selector of series in an expression."""
    if isinstance(node, promql.VectorSelector):
        yield node
    if isinstance(node, promql.MatrixSelector):
        yield node.vector_selector
    for name in ("expr", "lhs", "rhs", "param"):
        if (inner := getattr(node, name, None)) is not None and not isinstance(inner, str):
            yield from _selectors(inner)
    args = getattr(node, "args", ())
    for each in args if isinstance(args, list) else ():
        yield from _selectors(each)


def faults(expression: str) -> list[str]:
    """What an expression asks for that nobody publishes."""
    found = list(_selectors(promql.parse(expression)))
    told = [] if found else ["asks for nothing"]
    for each in found:
        if each.name not in SERIES:
            told.append(f"{each.name} is not published")
            continue
        labels = {matcher.name for matcher in each.matchers.matchers}
        told += [f"{each.name} has no label {label}" for label in labels - SERIES[each.name] - ADDED]
    grouped = {label for names in re.findall(r"by \(([^)]*)\)", expression) for label in names.split(", ")}
    known = {label for each in found for label in SERIES.get(each.name, ())}
    return told + [f"nothing has the label {label}" for label in grouped - known - ADDED]


EXPRESSIONS = {
    **{rule["alert"]: rule["expr"] for rule in RULES},
    **{
        f"panel {panel['title']} {target['refId']}": target["expr"].replace("$namespace", ".*")
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    },
    **{
        f"scaling {part}": the(VALUES["scaled by Prometheus"], "ScaledObject", f"sottovoce-{part}")["spec"]["triggers"][
            0
        ]["metadata"]["query"]
        for part in ("proxy", "engine")
    },
    **{
        f"scaling {part} by an adapter": the(
            VALUES["scaled by requests"], "HorizontalPodAutoscaler", f"sottovoce-{part}"
        )["spec"]["metrics"][0]["pods"]["metric"]["name"]
        for part in ("proxy", "engine")
    },
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_asks_for_what_is_published(name: str) -> None:
    assert faults(EXPRESSIONS[name]) == []


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("sottovoce_proxy_redy == 0", "is not published"),
        ('rate(sottovoce_proxy_requests_total{code="500"}[5m])', "has no label code"),
        ("sum by (le) (rate(sottovoce_proxy_requests_total[5m]))", "nothing has the label le"),
        ("histogram_quantile(0.5, rate(sottovoce_engine_clips_total_bucket[5m]))", "is not published"),
        ("vector(1)", "asks for nothing"),
    ],
)
def test_an_expression_that_asks_for_something_else_is_seen(expression: str, fault: str) -> None:
    assert fault in " ".join(faults(expression))


def test_panels_are_told_apart_and_lie_beside_each_other() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert place["x"] + place["w"] <= 24


def test_the_dashboard_and_the_rules_are_what_the_chart_installs() -> None:
    dashboard = the(VALUES["monitored"], "ConfigMap", "sottovoce-dashboard")
    assert json.loads(dashboard["data"]["sottovoce.json"]) == DASHBOARD
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    rule = the(VALUES["monitored"], "PrometheusRule", "sottovoce")
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text())
    assert rule["metadata"]["labels"]["release"] == "kube-prometheus-stack"


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "action"}


def test_the_document_lists_every_alert() -> None:
    table = DOCUMENT.read_text().partition("\n# Alerts\n")[2]
    documented = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", table, re.MULTILINE)
    summaries = [(rule["alert"], rule["labels"]["severity"], _plain(rule["annotations"]["summary"])) for rule in RULES]
    assert documented == summaries


def _plain(summary: str) -> str:
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"`\1`", summary)


class Case(NamedTuple):
    """Series that make an alert fire, series that do not, and when to look; values as promtool writes them."""

    firing: dict[str, str]
    quiet: dict[str, str]
    at: str = "30m"


POD = 'namespace="speech", pod="a"'
HEARD = f'sottovoce_engine_requests_total{{{POD}, backend="vllm", endpoint="transcriptions"'
CASES = {
    "SottovoceProxyNotReady": Case(
        {f"sottovoce_proxy_ready{{{POD}}}": "0x60"}, {f"sottovoce_proxy_ready{{{POD}}}": "1x60"}
    ),
    "SottovoceAttestationRefused": Case(
        {f'sottovoce_proxy_attestation_failures_total{{{POD}, check="measurement"}}': "0x20 1x40"},
        {f'sottovoce_proxy_attestation_failures_total{{{POD}, check="measurement"}}': "1x60"},
    ),
    "SottovoceAttestationExpiring": Case(
        {f"sottovoce_proxy_attestation_expiry_timestamp_seconds{{{POD}}}": "2400x60"},
        {f"sottovoce_proxy_attestation_expiry_timestamp_seconds{{{POD}}}": "20000x60"},
        at="35m",
    ),
    "SottovoceCollateralExpiring": Case(
        {f"sottovoce_proxy_attestation_collateral_expiry_timestamp_seconds{{{POD}}}": "2400x60"},
        {f"sottovoce_proxy_attestation_collateral_expiry_timestamp_seconds{{{POD}}}": "0x60"},  # without any
    ),
    "SottovoceKeyMismatches": Case(
        {f"sottovoce_proxy_key_mismatches_total{{{POD}}}": "0+1x60"},
        {f"sottovoce_proxy_key_mismatches_total{{{POD}}}": "0x25 1x35"},  # a key that was replaced
    ),
    "SottovoceTruncatedAnswers": Case(
        {f"sottovoce_proxy_truncated_answers_total{{{POD}}}": "0x25 1x35"},
        {f"sottovoce_proxy_truncated_answers_total{{{POD}}}": "1x60"},
    ),
    "SottovoceProxyErrors": Case(
        {
            f'sottovoce_proxy_requests_total{{{POD}, status="502"}}': "0+1x60",
            f'sottovoce_proxy_requests_total{{{POD}, status="200"}}': "0+9x60",
        },
        {
            f'sottovoce_proxy_requests_total{{{POD}, status="502"}}': "0+1x60",
            f'sottovoce_proxy_requests_total{{{POD}, status="200"}}': "0+99x60",
        },
    ),
    "SottovoceJobsStuck": Case(
        {f"sottovoce_proxy_jobs_oldest_seconds{{{POD}}}": "1900x60"},
        {f"sottovoce_proxy_jobs_oldest_seconds{{{POD}}}": "1700x60"},
    ),
    "SottovoceJobsStoreFailing": Case(
        {f"sottovoce_proxy_jobs_store_failures_total{{{POD}}}": "0+1x60"},
        {f"sottovoce_proxy_jobs_store_failures_total{{{POD}}}": "5x60"},
    ),
    "SottovoceIdentityLogFailing": Case(
        {f"sottovoce_proxy_identity_log_failures_total{{{POD}}}": "0x25 1x35"},
        {f"sottovoce_proxy_identity_log_failures_total{{{POD}}}": "0x60"},
    ),
    "SottovoceProxyInsecure": Case(
        {f"sottovoce_proxy_insecure{{{POD}}}": "1x60"}, {f"sottovoce_proxy_insecure{{{POD}}}": "0x60"}
    ),
    "SottovoceEngineBackendDown": Case(
        {f"sottovoce_engine_backend_ready{{{POD}}}": "0x60"}, {f"sottovoce_engine_backend_ready{{{POD}}}": "0x8 1x50"}
    ),
    "SottovoceEngineNotAttesting": Case(
        {f'sottovoce_engine_attestations_total{{{POD}, outcome="failed"}}': "0x25 1x35"},
        {f'sottovoce_engine_attestations_total{{{POD}, outcome="attested"}}': "0+1x60"},
    ),
    "SottovoceEngineKeyNotReplaced": Case(
        {f"sottovoce_engine_key_expiry_timestamp_seconds{{{POD}}}": "600x60"},
        {f"sottovoce_engine_key_expiry_timestamp_seconds{{{POD}}}": "7200x60"},
    ),
    "SottovoceEngineInsecureEvidence": Case(
        {f"sottovoce_engine_insecure_evidence{{{POD}}}": "1x60"},
        {f"sottovoce_engine_insecure_evidence{{{POD}}}": "0x60"},
    ),
    "SottovoceEngineErrors": Case(
        {
            f'{HEARD}, status="500"}}': "0+1x60",
            f'{HEARD}, status="200"}}': "0+9x60",
        },
        {f'sottovoce_engine_requests_total{{{POD}, backend="vllm", endpoint="models", status="401"}}': "0+9x60"},
        at="50m",
    ),
    "SottovoceEngineClipFailures": Case(
        {f'sottovoce_engine_clip_failures_total{{{POD}, backend="vllm"}}': "0+1x60"},
        {f'sottovoce_engine_clip_failures_total{{{POD}, backend="vllm"}}': "0x5 1x55"},
        at="50m",
    ),
    "SottovoceEngineDecoderFailing": Case(
        {f'sottovoce_engine_decode_failures_total{{{POD}, reason="decoder_failed"}}': "0x25 1x35"},
        {f'sottovoce_engine_decode_failures_total{{{POD}, reason="unreadable"}}': "0+1x60"},
    ),
    "SottovoceEngineQueue": Case(
        {
            f'sottovoce_engine_clip_queue_seconds_bucket{{{POD}, le="30"}}': "0x60",
            f'sottovoce_engine_clip_queue_seconds_bucket{{{POD}, le="60"}}': "0+1x60",
            f'sottovoce_engine_clip_queue_seconds_bucket{{{POD}, le="+Inf"}}': "0+1x60",
        },
        {
            f'sottovoce_engine_clip_queue_seconds_bucket{{{POD}, le="30"}}': "0+1x60",
            f'sottovoce_engine_clip_queue_seconds_bucket{{{POD}, le="+Inf"}}': "0+1x60",
        },
        at="50m",
    ),
    "SottovoceEngineSlow": Case(
        {
            f'sottovoce_engine_real_time_factor_bucket{{{POD}, le="1"}}': "0x120",
            f'sottovoce_engine_real_time_factor_bucket{{{POD}, le="2.5"}}': "0+1x120",
            f'sottovoce_engine_real_time_factor_bucket{{{POD}, le="+Inf"}}': "0+1x120",
        },
        {
            f'sottovoce_engine_real_time_factor_bucket{{{POD}, le="1"}}': "0+1x120",
            f'sottovoce_engine_real_time_factor_bucket{{{POD}, le="+Inf"}}': "0+1x120",
        },
        at="90m",
    ),
    "SottovoceEngineVllmWaiting": Case(
        {f'sottovoce_engine_vllm_requests_waiting{{{POD}, model="m"}}': "60x60"},
        {f'sottovoce_engine_vllm_requests_waiting{{{POD}, model="m"}}': "60x5 0x55"},
        at="50m",
    ),
}


def _promtool(directory: Path, tests: list[Any]) -> str:
    place = shutil.which("promtool") or shutil.which("promtool", path=Path(sys.executable).parent)
    need(place is not None, "promtool, which `make chart` fetches")
    (directory / "test.yaml").write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": tests}))
    told = subprocess.run(
        [str(place), "test", "rules", str(directory / "test.yaml")], capture_output=True, text=True, check=False
    )
    return "" if told.returncode == 0 else told.stdout + told.stderr


def _test(series: dict[str, str], alert: str, at: str, *, fires: bool) -> dict[str, Any]:
    question = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    expected = [{"labels": "{}", "value": 1}] if fires else []
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": question, "eval_time": at, "exp_samples": expected}],
    }


def test_every_alert_has_a_case() -> None:
    assert list(CASES) == [rule["alert"] for rule in RULES]


def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    cases = [_test(case.firing, alert, case.at, fires=True) for alert, case in CASES.items()]
    cases += [_test(case.quiet, alert, case.at, fires=False) for alert, case in CASES.items()]
    assert _promtool(tmp_path, cases) == ""


def test_an_alert_that_does_not_fire_is_seen(tmp_path: Path) -> None:
    case = CASES["SottovoceProxyNotReady"]
    assert "FAILED" in _promtool(tmp_path, [_test(case.quiet, "SottovoceProxyNotReady", case.at, fires=True)])
