"""Is a confidential engine rendered as Confidential Containers, and genpolicy of Kata Containers, want it?"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helm.chart import DIGEST, VALUES, Object, merged, objects, preset, rendered, the
from tests.helm.test_objects import breaches
from tests.helm.test_refusals import refusal

CLASSES = {
    "coco-snp": "kata-qemu-snp",
    "coco-tdx": "kata-qemu-tdx",
    "coco-snp-gpu": "kata-qemu-nvidia-gpu-snp",
    "coco-tdx-gpu": "kata-qemu-nvidia-gpu-tdx",
}
ANNOTATIONS = "io.katacontainers.config.hypervisor"


def _engine(name: str) -> Object:
    template = the(VALUES[name], "StatefulSet", "sottovoce-engine")["spec"]["template"]
    assert isinstance(template, dict)
    return template


@pytest.mark.parametrize("name", CLASSES)
def test_a_preset_is_refused_until_the_image_has_a_digest(name: str) -> None:
    assert "digest" in refusal(preset(name))
    (container,) = _engine(name)["spec"]["containers"]
    assert container["image"] == f"registry.example/engine@{DIGEST}"


@pytest.mark.parametrize(("name", "runtime_class"), CLASSES.items())
def test_a_preset_has_its_class_its_evidence_and_a_fixed_number_of_processors(name: str, runtime_class: str) -> None:
    pod = _engine(name)
    assert pod["spec"]["runtimeClassName"] == runtime_class
    assert pod["metadata"]["annotations"] == {f"{ANNOTATIONS}.kernel_params": "agent.guest_components_rest_api=all"}
    (container,) = pod["spec"]["containers"]
    assert "--evidence-from=coco" in container["args"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["resources"]["limits"].get("nvidia.com/pgpu") == ("1" if name.endswith("gpu") else None)


@pytest.mark.parametrize("name", CLASSES)
def test_where_the_engine_is_there_is_no_proxy_and_nobody_else_in_its_pod(name: str) -> None:
    found = objects(VALUES[name])
    assert not any("proxy" in one["metadata"]["name"] for one in found)
    pod = _engine(name)["spec"]
    assert (len(pod["containers"]), "initContainers" in pod, "hostNetwork" in pod) == (1, False, False)


@pytest.mark.parametrize("name", CLASSES)
def test_what_a_guest_writes_stays_in_its_memory(name: str) -> None:
    written = [volume for volume in _engine(name)["spec"]["volumes"] if "configMap" not in volume]
    assert [volume["emptyDir"]["medium"] for volume in written] == ["Memory", "Memory", "Memory"]


def test_initdata_is_on_the_pod_where_the_hypervisor_looks_for_it() -> None:
    annotations = _engine("coco, with initdata")["metadata"]["annotations"]
    assert annotations[f"{ANNOTATIONS}.cc_init_data"] == "H4sIAAAAAAAA/w=="
    assert "No initdata" in rendered(VALUES["coco-snp"])["NOTES.txt"]
    assert "No initdata" not in rendered(VALUES["coco, with initdata"])["NOTES.txt"]


def test_rust_classes_that_take_no_kernel_parameters_are_given_none() -> None:
    values = merged(VALUES["coco-snp-gpu"], {"engine": {"confidential": {"kernelParams": ""}}})
    template = the(values, "StatefulSet", "sottovoce-engine")["spec"]["template"]
    assert "annotations" not in template["metadata"]


def test_eight_gpus_come_with_their_switches() -> None:
    (container,) = _engine("coco, eight GPUs")["spec"]["containers"]
    for kind in ("requests", "limits"):
        assert container["resources"][kind]["nvidia.com/pgpu"] == "8"
        assert container["resources"][kind]["nvidia.com/nvswitch"] == "4"


def test_an_ordinary_engine_bears_none_of_it() -> None:
    pod = _engine("defaults")
    assert "annotations" not in pod["metadata"]
    assert "runtimeClassName" not in pod["spec"]


_PROBE = {
    "httpGet": {"path": None, "port": None, "host": None, "scheme": None},
    "periodSeconds": None,
    "timeoutSeconds": None,
    "failureThreshold": None,
    "successThreshold": None,
    "initialDelaySeconds": None,
}
_ITEMS = {"key": None, "path": None}
KNOWN: dict[str, Any] = {
    "runtimeClassName": None,
    "serviceAccountName": None,
    "nodeSelector": {"*": None},
    "tolerations": {"key": None, "operator": None, "value": None, "effect": None, "tolerationSeconds": None},
    "priorityClassName": None,
    "imagePullSecrets": {"name": None},
    "terminationGracePeriodSeconds": None,
    "securityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None, "supplementalGroups": None},
    "topologySpreadConstraints": {
        "maxSkew": None,
        "topologyKey": None,
        "whenUnsatisfiable": None,
        "labelSelector": {"matchLabels": {"*": None}},
    },
    "containers": {
        "name": None,
        "image": None,
        "imagePullPolicy": None,
        "command": None,
        "args": None,
        "env": {"name": None, "value": None},
        "ports": {"name": None, "containerPort": None, "protocol": None},
        "startupProbe": _PROBE,
        "livenessProbe": _PROBE,
        "readinessProbe": _PROBE,
        "securityContext": {
            "allowPrivilegeEscalation": None,
            "readOnlyRootFilesystem": None,
            "capabilities": {"drop": None, "add": None},
            "runAsUser": None,
            "runAsGroup": None,
            "seccompProfile": {"type": None},
        },
        "resources": {"requests": {"*": None}, "limits": {"*": None}},
        "volumeMounts": {"name": None, "mountPath": None, "readOnly": None},
    },
    "volumes": {
        "name": None,
        "configMap": {"name": None, "items": _ITEMS, "optional": None},
        "secret": {"secretName": None, "items": _ITEMS, "defaultMode": None},
        "emptyDir": {"medium": None, "sizeLimit": None},
        "persistentVolumeClaim": {"claimName": None},
    },
}
"""Fields of a pod that genpolicy reads, of those that this chart may render (kata-containers 4.0.0,
src/tools/genpolicy/src/pod.rs and volume.rs). It ends with an error at any other, unless it is given `-s`."""


def _unknown(value: Any, known: Any, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            yield from _unknown(each, known, path)
    elif isinstance(value, dict) and known is not None:
        for key, each in value.items():
            if key in known or "*" in known:
                yield from _unknown(each, known.get(key, known.get("*")), f"{path}.{key}")
            else:
                yield f"{path}.{key}"


FOR_GENPOLICY = [name for name in VALUES if "genpolicy" in name]


@pytest.mark.parametrize("name", FOR_GENPOLICY)
def test_for_genpolicy_there_is_no_field_that_it_refuses(name: str) -> None:
    assert list(_unknown(_engine(name)["spec"], KNOWN, "spec")) == []


@pytest.mark.parametrize("name", FOR_GENPOLICY)
def test_for_genpolicy_quantities_are_text(name: str) -> None:
    (container,) = _engine(name)["spec"]["containers"]
    assert all(isinstance(each, str) for kind in container["resources"].values() for each in kind.values())


def test_what_is_left_out_for_genpolicy_is_what_it_does_not_know() -> None:
    assert set(_unknown(_engine("coco-snp")["spec"], KNOWN, "spec")) == {
        "spec.automountServiceAccountToken",
        "spec.enableServiceLinks",
        "spec.securityContext.runAsNonRoot",
        "spec.securityContext.seccompProfile",
        "spec.containers.lifecycle",
        "spec.containers.securityContext.runAsNonRoot",
    }


@pytest.mark.parametrize("name", FOR_GENPOLICY)
def test_for_genpolicy_only_the_word_that_it_does_not_know_is_missing_from_restricted(name: str) -> None:
    pod = copy.deepcopy(_engine(name)["spec"])
    assert breaches(pod) == ["engine: may run as root"]
    pod["securityContext"]["runAsNonRoot"] = True
    assert breaches(pod) == []


def test_a_claim_with_weights_is_read_only_by_its_mount_too() -> None:
    values = merged(VALUES["coco-snp, for genpolicy"], {"engine": {"weights": {"claim": "weights", "inImage": False}}})
    spec = the(values, "StatefulSet", "sottovoce-engine")["spec"]["template"]["spec"]
    assert list(_unknown(spec, KNOWN, "spec")) == []
    (mount,) = (each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "weights")
    assert mount == {"name": "weights", "mountPath": "/models", "readOnly": True}
