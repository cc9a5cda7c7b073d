"""What does the chart render? One process for everything: Helm as a library, each set of values rendered once."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import helm_python as helm
import yaml

from tests.places import ROOT

CHART: Final = ROOT / "helm"
PRESETS: Final = CHART / "presets"
DIGEST: Final = "sha256:" + 64 * "5"
RELEASE: Final = "sottovoce"
NAMESPACE: Final = "speech"

Object = dict[str, Any]
"""What Kubernetes is given, or a part of it."""

helm.disable_logging()


def merged(*values: Mapping[str, Any]) -> Object:
    """Values as Helm merges files of them: maps together, lists and the rest the last one's."""
    result: Object = {}
    for each in values:
        for key, value in each.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def preset(name: str) -> Object:
    values = yaml.safe_load((PRESETS / f"{name}.yaml").read_text())
    assert isinstance(values, dict)
    return values


def defaults() -> Object:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert isinstance(values, dict)
    return values


_BY_DIGEST: Final = {"engine": {"image": {"repository": "registry.example/engine", "digest": DIGEST}}}
_MONITORED: Final = {
    "monitoring": {"serviceMonitor": True, "podMonitor": True, "rules": True, "dashboard": True}
    | {"labels": {"release": "kube-prometheus-stack"}}
}
_PREFIXED: Final = {"cidr": "192.0.2.0/24"}


def _several(kind: str) -> Object:
    scaled = {"kind": kind, "prometheus": "http://prometheus.monitoring:9090", "maxReplicas": 3}
    return {"engine": {"autoscaling": scaled}}


VALUES: Final[Mapping[str, Object]] = MappingProxyType(
    {
        "defaults": {},
        "plain-cpu": preset("plain-cpu"),
        "application": merged(preset("application"), {"proxy": {"engines": ["https://engine.example"]}}),
        **{name: merged(preset(name), _BY_DIGEST) for name in ("coco-snp", "coco-tdx", "coco-snp-gpu", "coco-tdx-gpu")},
        **{
            f"{name}, for genpolicy": merged(preset(name), preset("genpolicy"), _BY_DIGEST)
            for name in ("coco-snp", "coco-tdx-gpu")
        },
        "coco, with initdata": merged(
            preset("coco-tdx-gpu"), _BY_DIGEST, {"engine": {"confidential": {"initdata": "H4sIAAAAAAAA/w==\n"}}}
        ),
        "coco, eight GPUs": merged(
            preset("coco-snp-gpu"), _BY_DIGEST, {"engine": {"gpu": {"count": 8, "nvswitchCount": 4}}}
        ),
        "an ordinary GPU": {
            "engine": {
                "gpu": {"count": 1},
                "settings": {"backend": "vllm", "device": "cuda", "vllm_gpu_memory_utilization": 0.45},
                "weights": {"claim": "", "image": f"registry.example/weights@{DIGEST}"},
            }
        },
        "one engine, replaced without a gap": {"engine": {"kind": "Deployment"}},
        "several engines": {
            "engine": {
                "replicas": 3,
                "httpRoute": {
                    "enabled": True,
                    "parentRefs": [{"name": "public", "namespace": "gateways"}],
                    "hostname": "engines.example",
                },
            },
        },
        "one engine behind a Gateway": {
            "engine": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostname": "engine.example"}}
        },
        "scaled by requests": merged(_several("hpa"), {"proxy": {"autoscaling": {"kind": "hpa"}}}),
        "scaled by Prometheus": merged(
            _several("keda"),
            {"proxy": {"autoscaling": {"kind": "keda", "prometheus": "http://prometheus.monitoring:9090"}}},
            {"engine": {"settings": {"backend": "vllm"}}},
        ),
        "monitored": _MONITORED,
        "Cilium": {"engine": {"networkPolicy": {"cilium": True, "hosts": ["registry.example"]}}},
        "Cilium, offline": {
            "engine": {"networkPolicy": {"cilium": True}, "settings": {"offline_collateral": True}},
        },
        "offline": {"engine": {"settings": {"offline_collateral": True}}},
        "jobs of one proxy": {
            "proxy": {
                "replicas": 1,
                "jobs": {"enabled": True, "key": {"secret": "jobs-key"}, "claim": "jobs"},
            }
        },
        "jobs of many proxies": {
            "proxy": {
                "replicas": 3,
                "egressProxy": {"url": "http://egress.example:3128"},
                "jobs": {
                    "enabled": True,
                    "key": {"secret": "jobs-key"},
                    "database": {"secret": "jobs-database"},
                    "bucket": {
                        "url": "s3://recordings/speech",
                        "secret": "jobs-bucket",
                        "endpoint": "https://s3.example",
                        "region": "eu-west-1",
                    },
                    "settings": {
                        "jobs_accounts": True,
                        "jobs_allow_network": ["10.1.0.0/16", "10.2.0.0/16"],
                        "jobs_at_once": 8,
                        "jobs_keep_audio_h": 0.5,
                        "jobs_keep_results_days": 30,
                        "jobs_links": False,
                        "jobs_max_file_bytes": 3489660928,
                    },
                },
                "networkPolicy": {
                    "jobsEgress": [{"to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}], "ports": [{"port": 5432}]}]
                },
            }
        },
        "no network policies": {
            "engine": {"networkPolicy": {"enabled": False}},
            "proxy": {"networkPolicy": {"enabled": False}},
        },
        "names that YAML would read as something else": {
            "nameOverride": "on",
            "fullnameOverride": "yes",
            "imagePullSecrets": ["1"],
            "serviceAccount": {"name": "2"},
            "proxy": {
                "replicas": 1,
                "policy": {"configMap": "3"},
                "apiKey": {"secret": "true"},
                "token": {"secret": "null"},
                "tls": {"secret": "1e3", "ca": "7"},
                "ca": {"configMap": "0x8"},
                "state": {"claim": "1.5"},
                "jobs": {"enabled": True, "key": {"secret": "1e4"}, "claim": "0o7"},
                "priorityClassName": "no",
            },
            "engine": {
                "runtimeClassName": "10",
                "weights": {"claim": "2026-11-30"},
                "policy": {"configMap": "11"},
                "apiKeys": {"secret": "13"},
                "priorityClassName": "off",
            },
        },
        "everything": {
            "nameOverride": "speech",
            "imagePullSecrets": ["registry"],
            "commonLabels": {"team": "speech"},
            "bindAddress": "[::]",
            "serviceAccount": {"name": "speech"},
            "proxy": {
                "replicas": 1,
                "image": {"digest": DIGEST},
                "apiKey": {"secret": "engine-key"},
                "token": {"secret": "local-token"},
                "ca": {"configMap": "company-ca"},
                "settings": {
                    "policy_signer": ["ed25519:" + 64 * "a", "ed25519:" + 64 * "b"],
                    "min_policy_version": 3,
                    "require_pq": True,
                    "allow_host": ["speech.example"],
                    "allow_origin": ["https://app.example"],
                    "exit_if_refused": False,
                    "idle_timeout_s": 90.5,
                    "log_level": "warning",
                },
                "egressProxy": {"url": "http://egress.example:3128", "except": "10.0.0.0/8"},
                "state": {"claim": "proxy-state"},
                "userNamespaces": True,
                "service": {"type": "LoadBalancer", "annotations": {"example.org/internal": "true"}},
                "networkPolicy": {
                    "from": [{"namespaceSelector": {"matchLabels": {"speech": "yes"}}}],
                    "metricsFrom": [{"ipBlock": _PREFIXED}],
                    "egress": [{"to": [{"ipBlock": _PREFIXED}]}],
                },
                "podAnnotations": {"example.org/a": "b"},
                "podLabels": {"example.org/c": "d"},
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "speech", "operator": "Exists"}],
                "affinity": {"podAntiAffinity": {}},
                "priorityClassName": "high",
            },
            "engine": {
                "apiKeys": {"secret": "keys"},
                "models": [
                    {"name": "openai/whisper-large-v3", "path": "/models/large", "aliases": ["whisper-1", "large"]},
                    {"name": "base", "path": "/models/base"},
                ],
                "settings": {"max_upload_bytes": 3489660928, "log_requests": True, "request_timeout_s": 1800.5},
                "egressProxy": {"url": "http://egress.example:3128", "except": ""},
                "networkPolicy": {
                    "from": [{"namespaceSelector": {}}],
                    "metricsFrom": [{"ipBlock": _PREFIXED}],
                    "egress": [{"to": [{"ipBlock": _PREFIXED}], "ports": [{"port": 3128}]}],
                },
                "podAnnotations": {"example.org/a": "b"},
                "podLabels": {"example.org/c": "d"},
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "speech", "operator": "Exists"}],
                "affinity": {"podAntiAffinity": {}},
                "priorityClassName": "high",
                "service": {"annotations": {"example.org/internal": "true"}},
            },
            **_MONITORED,
        },
    }
)
"""Sets of values, by what they are for. Together they reach every template."""


@functools.cache
def _chart(directory: Path) -> helm.Chart:
    return helm.Chart.load(directory)


@functools.lru_cache(maxsize=64)
def _rendered(values: str, directory: Path) -> Mapping[str, str]:
    chart = _chart(directory)
    given = json.loads(values)
    chart.validate_schema(given)
    return MappingProxyType(chart.render(given, name=RELEASE, namespace=NAMESPACE))


def rendered(values: Mapping[str, Any], directory: Path = CHART) -> Mapping[str, str]:
    """Each template's text, by its path below `templates/`. Raises helm.HelmError where the schema refuses."""
    texts = _rendered(json.dumps(values, sort_keys=True), directory)
    return {name.partition("/templates/")[2]: text for name, text in texts.items()}


def objects(values: Mapping[str, Any], directory: Path = CHART) -> list[Object]:
    """Every object of a release, tests included."""
    return [one for name, text in sorted(rendered(values, directory).items()) for one in objects_of(name, text)]


def objects_of(name: str, text: str) -> list[Object]:
    return [] if name.endswith(".txt") else [one for one in yaml.safe_load_all(text) if one]


def the(values: Mapping[str, Any], kind: str, name: str, directory: Path = CHART) -> Object:
    (found,) = (each for each in objects(values, directory) if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def pods(found: list[Object]) -> Iterator[tuple[str, Object]]:
    """(name, spec) of every pod that the objects are or make."""
    for each in found:
        name = f"{each['kind']}/{each['metadata']['name']}"
        if each["kind"] == "Pod":
            yield name, each["spec"]
        elif "template" in each.get("spec", {}):
            yield name, each["spec"]["template"]["spec"]


def containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", ()), *pod["containers"]]
