"""A stand-in for genpolicy of Kata Containers, which pulls images: its options, and of its work what binds a pod.

The policy that it writes names each container's image and arguments, as the real one's `policy_data` does; the rules
that compare them are Kata's, and not here. It goes into the initdata, and that into the pod.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml

from attestation.reference.initdata import AGENT_POLICY, ANNOTATION, parse_initdata, write_initdata
from tests.helm.chart import Object


def agent_policy(spec: Object) -> str:
    data = [
        {"image": each["image"], "OCI": {"Process": {"Args": [*each["command"], *each["args"]]}}}
        for each in spec["containers"]
    ]
    return "package agent_policy\n\npolicy_data := " + json.dumps({"containers": data}, indent=2) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="genpolicy")
    parser.add_argument("-s", action="store_true", help="be silent about fields that are not known")
    parser.add_argument("-j", "--settings", required=True)
    parser.add_argument("-p", "--rules", required=True)
    parser.add_argument("-y", "--yaml", required=True, type=Path)
    parser.add_argument("--initdata-path", required=True, type=Path)
    given = parser.parse_args()
    workload = yaml.safe_load(given.yaml.read_text())
    pod = workload["spec"]["template"]
    initdata = parse_initdata(given.initdata_path.read_bytes())
    bound = write_initdata({**initdata.data, AGENT_POLICY: agent_policy(pod["spec"])}, initdata.algorithm)
    pod["metadata"].setdefault("annotations", {})[ANNOTATION] = bound.annotate()
    given.yaml.write_text(yaml.safe_dump(workload, width=1_000_000))


if __name__ == "__main__":
    main()
