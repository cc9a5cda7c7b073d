"""What does the chart refuse before anything is installed? For each rule of its schema, values that break it alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import helm_python as helm
import jsonschema
import pytest

from tests.helm.chart import CHART, DIGEST, VALUES, Object, defaults, merged, rendered

SCHEMA = json.loads((CHART / "values.schema.json").read_text())

CONFIDENTIAL = VALUES["coco-snp"]
SIGNED = {"policy_signer": ["ed25519:" + 64 * "a"]}
ONE, MANY = VALUES["jobs of one proxy"], VALUES["jobs of many proxies"]
RULES: dict[str, list[Object]] = {
    "a confidential engine is named by its digest, runs in a class, has a number of processors, and proves something": [
        merged(CONFIDENTIAL, {"engine": {"image": {"digest": ""}}}),
        merged(CONFIDENTIAL, {"engine": {"runtimeClassName": ""}}),
        merged(CONFIDENTIAL, {"engine": {"resources": {"limits": {"cpu": None}}}}),
        merged(CONFIDENTIAL, {"engine": {"resources": {"limits": {"cpu": "7500m"}}}}),
        merged(CONFIDENTIAL, {"engine": {"settings": {"insecure_evidence": True}}}),
        merged(CONFIDENTIAL, {"engine": {"weights": {"inImage": False, "image": "registry.example/weights:1"}}}),
    ],
    "an engine serves a model": [{"engine": {"models": []}}],
    "what is not judged is not served; only development evidence goes without a policy": [
        {"engine": {"policy": {"configMap": ""}}}
    ],
    "engines that have names of their own are several; behind one name there is one": [
        {"engine": {"kind": "Deployment", "replicas": 2}, "proxy": {"enabled": False}},
        {"engine": {"kind": "Deployment", "autoscaling": {"kind": "hpa"}}, "proxy": {"enabled": False}},
    ],
    "a proxy asks an engine: that of this release, or one that is given": [{"engine": {"enabled": False}}],
    "a proxy judges by a policy": [{"proxy": {"policy": {"configMap": ""}}}],
    "beyond its pod a proxy speaks TLS, or says that it does not": [
        {"proxy": {"tls": {"secret": ""}}},
        {"proxy": {"tls": {"secret": ""}, "settings": {"allow_remote_clients": False}}},
    ],
    "whoever connects would use the API key": [{"proxy": {"apiKey": {"secret": "engine-key"}}}],
    "a signed policy has a version that never falls: remembered in a claim, or pinned": [
        {"proxy": {"settings": SIGNED}},
    ],
    "the same of a sidecar, which remembers nothing": [{"sidecar": {"settings": SIGNED}}],
    "a claim is one pod's": [
        {"proxy": {"state": {"claim": "state"}}},
        {"proxy": {"state": {"claim": "state"}, "replicas": 1, "autoscaling": {"kind": "hpa"}}},
    ],
    "what jobs keep is sealed with keys that outlive the pod": [
        merged(ONE, {"proxy": {"jobs": {"key": {"secret": ""}}}})
    ],
    "what of jobs is kept nowhere else is in a claim": [
        merged(ONE, {"proxy": {"jobs": {"claim": ""}}}),
        merged(MANY, {"proxy": {"jobs": {"database": {"secret": ""}}}}),
        merged(MANY, {"proxy": {"jobs": {"bucket": {"url": "", "secret": "", "endpoint": "", "region": ""}}}}),
    ],
    "a claim of jobs is one pod's; several have a database and a bucket": [
        merged(ONE, {"proxy": {"replicas": 2}}),
        merged(ONE, {"proxy": {"autoscaling": {"kind": "hpa"}}}),
        merged(MANY, {"proxy": {"jobs": {"claim": "jobs"}}}),
    ],
    "a database is somewhere that pods may connect to": [
        merged(MANY, {"proxy": {"networkPolicy": {"jobsEgress": []}}}),
    ],
}
"""Each rule between values, by its comment in the schema."""

CASES = [(comment, number) for comment, broken in RULES.items() for number in range(len(broken))]


def refusal(values: Mapping[str, Any]) -> str:
    with pytest.raises(helm.HelmError) as refused:
        rendered(values)
    return str(refused.value)


def test_every_rule_is_broken_here() -> None:
    assert [rule["$comment"] for rule in SCHEMA["allOf"]] == list(RULES)


@pytest.mark.parametrize(("comment", "number"), CASES)
def test_values_that_break_a_rule_are_refused_and_for_no_other_reason(comment: str, number: int) -> None:
    values = RULES[comment][number]
    refusal(values)
    others = copy.deepcopy(SCHEMA)
    others["allOf"] = [rule for rule in SCHEMA["allOf"] if rule["$comment"] != comment]
    jsonschema.Draft7Validator(others).validate(_without_nulls(merged(defaults(), values)))


def _without_nulls(values: Any) -> Any:
    """As Helm reads a value that is null: the default is taken away."""
    if isinstance(values, dict):
        return {key: _without_nulls(value) for key, value in values.items() if value is not None}
    return values


ALONE: dict[str, Object] = {
    "a value that nobody knows": {"engin": {}},
    "one that a part does not know": {"proxy": {"replica": 2}},
    "one deep inside": {"engine": {"image": {"sha": DIGEST}}},
    "a setting that no program has": {"engine": {"settings": {"beam_size": 5}}},
    "a setting in another spelling": {"proxy": {"settings": {"overallTimeoutS": 60}}},
    "a setting that is the chart's": {"engine": {"settings": {"listen": "0.0.0.0:80"}}},
    "a vLLM of somebody else's": {"engine": {"settings": {"backend": "vllm", "vllm_url": "http://127.0.0.1:8000"}}},
    "a setting of another type": {"engine": {"settings": {"max_requests": "many"}}},
    "background jobs, for which a pod has no place": {"proxy": {"settings": {"jobs": True}}},
    "the same of a sidecar": {"sidecar": {"settings": {"jobs_at_once": 2}}},
    "a file of keys, which a Secret has": {"proxy": {"jobs": {"settings": {"jobs_key": "/jobs.key"}}}},
    "a keyring, which no pod has": {"proxy": {"jobs": {"settings": {"jobs_keyring": "jobs"}}}},
    "a command, which the image has not": {"proxy": {"jobs": {"settings": {"jobs_link_resolver": "/bin/resolve"}}}},
    "a setting that is not one of jobs": {"proxy": {"jobs": {"settings": {"log_level": "warning"}}}},
    "a bucket without its keys": merged(MANY, {"proxy": {"jobs": {"bucket": {"secret": ""}}}}),
    "keys without their bucket": {"proxy": {"jobs": {"bucket": {"secret": "jobs-bucket"}}}},
    "a bucket that is none": merged(MANY, {"proxy": {"jobs": {"bucket": {"url": "https://bucket.example"}}}}),
    "a bundle of Sigstore, which the image cannot read": {
        "proxy": {"settings": {"policy_sigstore_root": "/root.json"}}
    },
    "a secret in an argument": {"proxy": {"settings": {"otlp_token": "word"}}},
    "a label by which the chart finds its pods": {"engine": {"podLabels": {"app.kubernetes.io/name": "other"}}},
    "the same of every object": {"commonLabels": {"app.kubernetes.io/instance": "other"}},
    "a name that no Service may have": {"fullnameOverride": "speech.example"},
    "a number that the program refuses": {"engine": {"settings": {"key_lifetime_s": 59}}},
    "a word that the program refuses": {"engine": {"settings": {"backend": "whisper.cpp"}}},
    "a list with nothing in it": {"proxy": {"settings": {"allow_host": []}}},
    "a digest that is none": {"engine": {"image": {"digest": "sha256:55"}}},
    "an engine that is named twice": {"proxy": {"engines": ["http://a:1", "http://a:1"]}},
    "an engine's URL without its scheme": {"proxy": {"engines": ["engine.example"]}},
    "weights from nowhere": {"engine": {"weights": {"claim": ""}}},
    "weights from two places": {"engine": {"weights": {"inImage": True}}},
    "a model without its path": {"engine": {"models": [{"name": "base"}]}},
    "a model whose name an argument cannot carry": {"engine": {"models": [{"name": "a=b", "path": "/models/a"}]}},
    "a route without a Gateway": {"engine": {"httpRoute": {"enabled": True, "hostname": "engine.example"}}},
    "a route without a name": {"engine": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}}},
    "a timeout that ends transcriptions": {"engine": {"httpRoute": {"timeout": "60s"}}},
    "KEDA without Prometheus": {"proxy": {"autoscaling": {"kind": "keda"}}},
    "another way to scale": {"proxy": {"autoscaling": {"kind": "vpa"}}},
    "peers that Cilium does not know": {"engine": {"networkPolicy": {"cilium": True, "from": [{"podSelector": {}}]}}},
    "names that only Cilium knows": {"engine": {"networkPolicy": {"hosts": ["registry.example"]}}},
    "too little time to pull an image in a guest": {"engine": {"startupSeconds": 300}},
    "an address that is not every address": {"bindAddress": "127.0.0.1"},
    "a file name that leaves its directory": {"proxy": {"policy": {"file": "../policy.toml"}}},
    "a quantity that is none": {"engine": {"shmSize": "much"}},
    "a quantity that is a number": {"engine": {"resources": {"limits": {"cpu": 4}}}},
    "a volume of the host": {"engine": {"weights": {"hostPath": "/models"}}},
    "a container beside the engine": {"engine": {"sidecars": [{"name": "shell"}]}},
    "a variable of the engine": {"engine": {"env": {"LD_PRELOAD": "/x.so"}}},
    "no time to drain": {"engine": {"settings": {"drain_s": None}}},
}


@pytest.mark.parametrize("name", ALONE)
def test_what_a_value_may_not_be_is_refused(name: str) -> None:
    refusal(ALONE[name])


def test_a_refusal_says_where() -> None:
    assert "additional properties 'beam_size' not allowed" in refusal(ALONE["a setting that no program has"])


def _objects_of(schema: Any, path: str = "") -> Iterator[tuple[str, Object]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for key, value in schema.items():
            yield from _objects_of(value, f"{path}/{key}")
    if isinstance(schema, list):
        for number, value in enumerate(schema):
            yield from _objects_of(value, f"{path}/{number}")


OPEN = {"global", "affinity", "strings", "labels", "quantities", "items"}
"""What is Kubernetes' to judge: labels, peers, tolerations, and what parent charts hand down."""


def test_no_object_of_the_schema_takes_keys_that_nobody_knows() -> None:
    closed = {path for path, each in _objects_of(SCHEMA) if each.get("additionalProperties") is False}
    others = {path for path, each in _objects_of(SCHEMA)} - closed
    assert len(closed) > 25
    assert {path.rpartition("/")[2] for path in others} <= OPEN


def _paths(values: Object, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in values.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from _paths(value, (*above, name))


MAY_BE_TAKEN_AWAY = ("requests", "limits", "settings")
"""Maps that the chart goes through and does not look anything up in; of settings the schema says what it looks up."""


def test_a_default_that_is_taken_away_is_missed_by_its_name_before_a_template_stumbles() -> None:
    for path in _paths(defaults()):
        if path[-2:-1] and path[-2] in MAY_BE_TAKEN_AWAY:
            continue
        values: Any = None
        for name in reversed(path):
            values = {name: values}
        assert f"missing property '{path[-1]}'" in refusal(values), ".".join(path)


def test_the_defaults_are_all_that_the_schema_knows() -> None:
    """A value that has no default has no line in the README either."""
    missing = []
    for part in ("proxy", "sidecar", "engine", "monitoring", "tests"):
        known = SCHEMA["properties"][part]["properties"]
        missing += [f"{part}.{name}" for name in known if name not in defaults()[part]]
        for name, given in known.items():
            each = SCHEMA["definitions"].get(given.get("$ref", "").rpartition("/")[2], given)
            if "properties" in each and name != "settings":
                missing += [f"{part}.{name}.{key}" for key in each["properties"] if key not in defaults()[part][name]]
    assert missing == []
