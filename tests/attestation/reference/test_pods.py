"""A pod's YAML says what it gives to its guest, and what it leaves to the host."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from attestation.errors import SourceFileError
from attestation.reference.initdata import ANNOTATION, Initdata, image_policy, write_initdata
from attestation.reference.pods import KERNEL_PARAMETERS, MAX_YAML_BYTES, REST_API, Pod, holes, pod_holes, read_pods

ENGINE = "ghcr.io/org/engine@sha256:" + "ab" * 32
OTHER = "ghcr.io/org/other@sha256:" + "cd" * 32
REGO = f'package agent_policy\npolicy_data := {{"image": "{ENGINE}", "Args": ["serve", "--log-level=info"]}}\n'
SOUND = write_initdata({"cdh.toml": image_policy([ENGINE]), "policy.rego": REGO})


def template(initdata: Initdata | str = SOUND, image: str = ENGINE, **annotations: str) -> dict[str, Any]:
    value = initdata if isinstance(initdata, str) else initdata.annotate()
    return {
        "metadata": {"annotations": {ANNOTATION: value, KERNEL_PARAMETERS: f"quiet {REST_API}", **annotations}},
        "spec": {"containers": [{"name": "engine", "image": image, "args": ["serve"]}]},
    }


def workload(kind: str, pod: Mapping[str, Any]) -> dict[str, Any]:
    named = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "engine"}}
    if kind == "Pod":
        return {**named, "metadata": {**named["metadata"], **pod["metadata"]}, "spec": pod["spec"]}  # type: ignore[dict-item]
    spec = {"jobTemplate": {"spec": {"template": pod}}} if kind == "CronJob" else {"template": pod}
    return {**named, "spec": spec}


@pytest.mark.parametrize("kind", ["Pod", "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "ReplicaSet"])
def test_the_pods_of_every_workload_are_read(kind: str) -> None:
    text = yaml.safe_dump(workload(kind, template())).encode()
    assert read_pods(text) == (Pod(f"{kind}/engine", SOUND, f"quiet {REST_API}", (ENGINE,), ("serve",)),)


def test_every_document_and_every_item_is_read() -> None:
    both = [workload("Pod", template()), workload("Job", template())]
    service = {"kind": "Service", "metadata": {"name": "engine"}}
    stream = yaml.safe_dump_all([service, *both, None, 7]).encode()
    listed = yaml.safe_dump({"kind": "List", "items": [*both, service]}).encode()
    assert (
        [pod.name for pod in read_pods(stream)]
        == [pod.name for pod in read_pods(listed)]
        == ["Pod/engine", "Job/engine"]
    )


def test_initdata_in_a_block_of_lines_is_read() -> None:
    value = SOUND.annotate()
    folded = "\n".join(value[at : at + 60] for at in range(0, len(value), 60))
    pod = workload("Pod", template(folded))
    assert read_pods(yaml.safe_dump(pod, default_style="|").encode())[0].initdata == SOUND


def test_an_annotation_on_the_workload_and_not_on_its_pods_is_a_mistake_that_is_told() -> None:
    deployment = workload("Deployment", {"spec": {"containers": []}})
    deployment["metadata"]["annotations"] = {ANNOTATION: SOUND.annotate()}
    with pytest.raises(SourceFileError, match=r"Deployment/engine: .* does nothing, not on its pods"):
        read_pods(yaml.safe_dump(deployment).encode())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"kind: Pod\nmetadata: {name: engine}\n", "no pod has an annotation"),
        (b"", "no pod has an annotation"),
        (b"- 1\n", "no pod has an annotation"),
        (b"kind: List\nitems: 7\n", "no pod has|not YAML"),
        (b"kind: [", "not YAML"),
        (b"kind: !!python/object/apply:os.system [id]\n", "not YAML"),
        (b"[" * 100_000, "not YAML"),
        (b"#" * (MAX_YAML_BYTES + 1), "longer than"),
        (b"kind: \xff", "not YAML"),
    ],
)
def test_what_gives_no_pod_is_refused(text: bytes, fault: str) -> None:
    with pytest.raises(SourceFileError, match=fault):
        read_pods(text)


def test_a_sound_pod_leaves_nothing_open() -> None:
    (pod,) = read_pods(yaml.safe_dump(workload("StatefulSet", template())).encode())
    assert list(pod_holes(pod)) == []


ANYTHING = [{"type": "insecureAcceptAnything"}]
ALLOWS_ALL = '[image]\nimage_security_policy = \'{"default":[{"type":"insecureAcceptAnything"}],"transports":{}}\'\n'
_OTHER_TRANSPORT = json.dumps({"default": [{"type": "reject"}], "transports": {"docker": {}, "oci": {"": ANYTHING}}})
HOLES: dict[str, tuple[Mapping[str, str], str]] = {
    "no agent policy": ({"cdh.toml": image_policy([ENGINE])}, "no policy.rego: the guest image's own policy"),
    "no image policy": ({"policy.rego": REGO}, "no image policy in cdh.toml"),
    "an image policy that allows all": ({"cdh.toml": ALLOWS_ALL, "policy.rego": REGO}, "no image policy in cdh.toml"),
    "an image policy that is none": (
        {"cdh.toml": "[image]\nimage_security_policy = 7\n", "policy.rego": REGO},
        "no image policy in cdh.toml",
    ),
    "an image policy for another transport": (
        {"cdh.toml": f"[image]\nimage_security_policy = '{_OTHER_TRANSPORT}'\n", "policy.rego": REGO},
        "no image policy in cdh.toml",
    ),
    "an image policy that stands elsewhere": (
        {
            "cdh.toml": image_policy([ENGINE]) + "image_security_policy_uri = 'kbs:///default/policy/x'\n",
            "policy.rego": REGO,
        },
        "is decided elsewhere",
    ),
    "a further image": (
        {"cdh.toml": image_policy([ENGINE, OTHER]), "policy.rego": REGO},
        f"lets the guest pull {OTHER} too",
    ),
    "every image of a registry": (
        {"cdh.toml": image_policy([ENGINE]).replace(ENGINE, f'ghcr.io/org\\": [], \\"{ENGINE}'), "policy.rego": REGO},
        "lets the guest pull ghcr.io/org too",
    ),
    "a cdh.toml that is none": ({"cdh.toml": "[", "policy.rego": REGO}, "no image policy in cdh.toml"),
    "another image": (
        {"cdh.toml": image_policy([OTHER]), "policy.rego": REGO},
        "is not among the images that cdh.toml lets the guest pull",
    ),
    **{
        f"an agent policy that has {request} by default": (
            {"cdh.toml": image_policy([ENGINE]), "policy.rego": f"{REGO}default  {request} := true\n"},
            f"policy.rego has {request} by default",
        )
        for request in ("AllowRequestsFailingPolicy", "CreateContainerRequest", "ExecProcessRequest")
    },
    "an agent policy for another image": (
        {"cdh.toml": image_policy([ENGINE]), "policy.rego": REGO.replace("ab", "ac")},
        "is not named by its digest in policy.rego",
    ),
}


@pytest.mark.parametrize(("data", "told"), HOLES.values(), ids=HOLES.keys())
def test_each_hole_is_told(data: Mapping[str, str], told: str) -> None:
    (hole,) = holes(write_initdata(data), (ENGINE,))
    assert told in hole


def test_what_every_agent_policy_allows_is_no_hole() -> None:
    rego = f"{REGO}default StatsContainerRequest := true\ndefault ExecProcessRequest := false\n"
    rego += "# default CopyFileRequest := true\n"
    assert not list(holes(write_initdata({"cdh.toml": image_policy([ENGINE]), "policy.rego": rego}), (ENGINE,)))


def test_an_image_by_its_tag_is_told() -> None:
    (pod,) = read_pods(yaml.safe_dump(workload("Pod", template(image="ghcr.io/org/engine:1.0"))).encode())
    assert list(pod_holes(pod)) == ["ghcr.io/org/engine:1.0 is not named by its digest"]


def test_init_containers_are_looked_at_too() -> None:
    pod = template()
    pod["spec"]["initContainers"] = [{"image": OTHER}]
    (read,) = read_pods(yaml.safe_dump(workload("Pod", pod)).encode())
    assert read.images == (OTHER, ENGINE)
    assert [hole for hole in pod_holes(read) if OTHER in hole]


def test_a_container_beside_the_engine_is_told() -> None:
    pod = template(write_initdata({"cdh.toml": image_policy([ENGINE, OTHER]), "policy.rego": f"{REGO}# {OTHER}\n"}))
    pod["spec"]["containers"].append({"image": OTHER})
    (read,) = read_pods(yaml.safe_dump(workload("Pod", pod)).encode())
    (hole,) = pod_holes(read)
    assert hole.startswith("2 containers")


def test_a_pod_that_does_not_enable_the_api_is_told() -> None:
    (pod,) = read_pods(yaml.safe_dump(workload("Pod", template(**{KERNEL_PARAMETERS: "quiet"}))).encode())
    (hole,) = pod_holes(pod)
    assert REST_API in hole


@pytest.mark.parametrize("place", ["command", "args"])
def test_an_argument_that_the_agents_policy_does_not_name_is_told(place: str) -> None:
    pod = template()
    pod["spec"]["containers"][0] |= {"args": [], place: ["serve", "--log-level=info", "--log-level=debug"]}
    (read,) = read_pods(yaml.safe_dump(workload("Pod", pod)).encode())
    (hole,) = pod_holes(read)
    assert "--log-level=debug is not an argument" in hole
