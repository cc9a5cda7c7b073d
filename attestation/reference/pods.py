"""What does a pod's YAML give to its guest, and what does it leave to the host? Read for whoever audits a deployment.

The host can start whatever it likes. What binds it is what evidence bears: the launch measurement, of which kernel
parameters are a part, and the digest of initdata. So this tells what of a pod is bound there, and which holes are open,
of those that Kata Containers 4.0 leaves to the operator.

`yaml` is loaded here, and nowhere else.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from attestation.errors import SourceFileError
from attestation.reference.initdata import AGENT_POLICY, ANNOTATION, DATA_HUB, Initdata, parse_annotation

KERNEL_PARAMETERS: Final = "io.katacontainers.config.hypervisor.kernel_params"
REST_API: Final = "agent.guest_components_rest_api=all"
_ALLOWING: Final = re.compile(r"^[ \t]*default[ \t]+(\w+)[ \t]*:?=[ \t]*true\b", re.MULTILINE)
_NEVER_BY_DEFAULT: Final = (
    "AllowRequestsFailingPolicy",
    "CopyFileRequest",
    "CreateContainerRequest",
    "ExecProcessRequest",
    "SetPolicyRequest",
)
_POLICY_ELSEWHERE: Final = "image_security_policy_uri"
MAX_YAML_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod, or the template of a workload's.

    name: `Kind/name` of the workload. kernel_parameters: what the pod adds to the guest kernel's command line, which
    the launch measures. images, arguments: of all its containers.
    """

    name: str
    initdata: Initdata
    kernel_parameters: str
    images: tuple[str, ...]
    arguments: tuple[str, ...]


def read_pods(text: bytes) -> tuple[Pod, ...]:
    """The pods with initdata in YAML. Raises SourceFileError when there is none."""
    pods = tuple(pod for document in _documents(text) for pod in _pods(document))
    if not pods:
        raise SourceFileError(f"no pod has an annotation {ANNOTATION}")
    return pods


def _documents(text: bytes) -> Iterator[Mapping[str, Any]]:
    try:
        import yaml  # noqa: PLC0415 - only this command needs it
    except ImportError:
        raise SourceFileError("reading YAML takes the extra `reference`: pip install 'sottovoce[reference]'") from None
    if len(text) > MAX_YAML_BYTES:
        raise SourceFileError(f"YAML: longer than {MAX_YAML_BYTES} bytes")
    try:
        for document in yaml.safe_load_all(text):
            is_list = isinstance(document, dict) and document.get("kind") == "List"
            yield from (
                item for item in (_list(document, "items") if is_list else [document]) if isinstance(item, dict)
            )
    except (yaml.YAMLError, RecursionError, ValueError):
        raise SourceFileError("not YAML") from None


def _pods(workload: Mapping[str, Any]) -> Iterator[Pod]:
    name = f"{workload.get('kind', 'object')}/{_at(workload, 'metadata').get('name', 'unnamed')}"
    pod = _template(workload)
    annotations = _at(pod, "metadata", "annotations")
    if ANNOTATION not in annotations:
        if ANNOTATION in _at(workload, "metadata", "annotations"):
            raise SourceFileError(
                f"{name}: {ANNOTATION} stands on the workload, where it does nothing, not on its pods"
            )
        return
    spec = _at(pod, "spec")
    containers = [*_list(spec, "initContainers"), *_list(spec, "containers")]
    yield Pod(
        name,
        parse_annotation(str(annotations[ANNOTATION])),
        str(annotations.get(KERNEL_PARAMETERS, "")),
        tuple(str(_at(container).get("image", "")) for container in containers),
        tuple(
            str(argument)
            for container in containers
            for name in ("command", "args")
            for argument in _list(_at(container), name)
        ),
    )


def _template(workload: Mapping[str, Any]) -> Mapping[str, Any]:
    match workload.get("kind"):
        case "Pod":
            return workload
        case "CronJob":
            return _at(workload, "spec", "jobTemplate", "spec", "template")
        case _:
            return _at(workload, "spec", "template")


def _at(value: Any, *path: str) -> Mapping[str, Any]:
    """The mapping at a path; an empty one where there is none."""
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _list(value: Mapping[str, Any], name: str) -> list[Any]:
    found = value.get(name)
    return found if isinstance(found, list) else []


def holes(initdata: Initdata, images: tuple[str, ...] = ()) -> Iterator[str]:
    """What initdata leaves to the host. images: those of the pod, where it is known.

    An agent policy is a program, which nothing here runs: that it is the one that genpolicy makes of the pod is seen by
    making it again.
    """
    if AGENT_POLICY not in initdata.data:
        yield f"no {AGENT_POLICY}: the guest image's own policy is in force, which in a stock one allows everything"
    for request in _ALLOWING.findall(initdata.data.get(AGENT_POLICY, "")):
        if request in _NEVER_BY_DEFAULT:
            yield f"{AGENT_POLICY} has {request} by default, whatever the host asks for: genpolicy never writes that"
    yield from _image_holes(initdata, images)


def _image_holes(initdata: Initdata, images: tuple[str, ...]) -> Iterator[str]:
    configured = _image_table(initdata.data.get(DATA_HUB, ""))
    if _POLICY_ELSEWHERE in configured:
        yield f"{DATA_HUB} names {_POLICY_ELSEWHERE}: which images may be pulled is decided elsewhere"
    allowed = _allowed_images(configured)
    if allowed is None:
        yield f"no image policy in {DATA_HUB} that rejects by default: any image may be pulled in ours' place"
    elif images and allowed > set(images):
        for scope in sorted(allowed - set(images)):
            yield f"{DATA_HUB} lets the guest pull {scope or 'every image'} too, which is no image of this pod"
    for image in images:
        if "@sha256:" not in image:
            yield f"{image} is not named by its digest"
        elif allowed is not None and image not in allowed:
            yield f"{image} is not among the images that {DATA_HUB} lets the guest pull"
        elif image.partition("@")[2] not in initdata.data.get(AGENT_POLICY, image):
            yield f"{image} is not named by its digest in {AGENT_POLICY}"


def pod_holes(pod: Pod) -> Iterator[str]:
    """What a pod leaves to the host, or lacks."""
    yield from holes(pod.initdata, pod.images)
    if len(pod.images) > 1:
        yield f"{len(pod.images)} containers: each can ask for evidence over any bytes, and so speak for the engine"
    if agent_policy := pod.initdata.data.get(AGENT_POLICY):
        for argument in pod.arguments:
            if json.dumps(argument, ensure_ascii=False) not in agent_policy:
                yield f"{argument} is not an argument that {AGENT_POLICY} names: it was made from another pod"
    if REST_API not in pod.kernel_parameters.split():
        yield f"{KERNEL_PARAMETERS} does not say {REST_API}: unless the runtime's own configuration does, no evidence"


def _image_table(data_hub: str) -> Mapping[str, Any]:
    try:
        return _at(tomllib.loads(data_hub), "image")
    except (ValueError, RecursionError):
        return {}


def _allowed_images(configured: Mapping[str, Any]) -> frozenset[str] | None:
    """The scopes of an image policy; None where there is none that rejects the rest, by whatever transport."""
    try:
        policy = json.loads(configured.get("image_security_policy", ""))
    except (ValueError, TypeError, RecursionError):
        return None
    if not isinstance(policy, dict) or policy.get("default") != [{"type": "reject"}]:
        return None
    if set(_at(policy, "transports")) - {"docker"}:
        return None
    return frozenset(_at(policy, "transports", "docker"))
