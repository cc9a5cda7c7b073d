"""How does the sidecar run without a cluster? Prints a pod for `podman kube play`, of the sidecar as it is rendered.

    python -m tests.helm.kube_play --image IMAGE --engine URL --policy POLICY.TOML | podman kube play --network host -

podman 4 refuses init containers with probes, and knows nothing of sidecars that are ones: here the sidecar is an
ordinary container, the only one, at the machine's own 127.0.0.1. The policy travels in a ConfigMap of the same stream.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from tests.helm.chart import Object
from tests.helm.sidecar import application

UNKNOWN_TO_PODMAN = ("restartPolicy", "startupProbe", "readinessProbe", "livenessProbe", "imagePullPolicy", "ports")


def pod(image: str, policy: str, sidecar: Object) -> list[Object]:
    """The ConfigMap and the pod. sidecar: its values."""
    (deployment,) = application(sidecar)
    spec = deployment["spec"]["template"]["spec"]
    (native,) = spec["initContainers"]
    container = {key: value for key, value in native.items() if key not in UNKNOWN_TO_PODMAN} | {"image": image}
    names = {mount["name"] for mount in container["volumeMounts"]}
    # podman has no size limits of temporary volumes.
    volumes = [
        volume | ({"emptyDir": {}} if "emptyDir" in volume else {})
        for volume in spec["volumes"]
        if volume["name"] in names
    ]
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "sottovoce-policy"},
            "data": {"policy.toml": policy},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "sottovoce-sidecar"},
            "spec": {"restartPolicy": "Never", "containers": [container], "volumes": volumes},
        },
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--image", required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--policy", required=True, type=Path)
    parser.add_argument("--insecure-remote-engine", action="store_true")
    given = parser.parse_args()
    sidecar: Object = {"engines": [given.engine]}
    if given.insecure_remote_engine:
        sidecar["settings"] = {"insecure_remote_engine": True}
    sys.stdout.write(yaml.safe_dump_all(pod(given.image, given.policy.read_text(), sidecar)))


if __name__ == "__main__":
    main()
