"""Is whatever is rendered, from any set of values, Kubernetes' own, restricted and labelled? Does it fit together?"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

from tests.helm.chart import CHART, PRESETS, VALUES, Object, containers, pods, rendered
from tests.helm.releases import RELEASES
from tests.helm.sidecar import EXAMPLE
from tests.places import ROOT
from tests.requirements import need, need_program

KUBERNETES = ("1.30", "1.33", "1.37")
"""The oldest that the chart asks for, the one with stable sidecars, and the newest whose schemas are at hand."""

CRDS = Path(__file__).with_name("crds")
CHECKOV = ROOT / ".venv" / "checkov" / "bin" / "checkov"


def _is_custom(one: Object) -> bool:
    group = one["apiVersion"].partition("/")[0]
    return "." in group and (not group.endswith(".k8s.io") or group == "gateway.networking.k8s.io")


@pytest.fixture(params=RELEASES)
def found(request: pytest.FixtureRequest) -> list[Object]:
    return RELEASES[request.param]


@pytest.mark.parametrize("kube_version", [f"v{version}.0" for version in KUBERNETES])
def test_the_chart_has_nothing_that_helm_warns_of(kube_version: str) -> None:
    report = helm.lint(CHART, strict=True, kube_version=kube_version)
    assert [each for each in report["messages"] if each["severity"] > 1] == []
    assert report["errors"] == []


def test_the_oldest_kubernetes_that_is_tried_is_the_oldest_that_the_chart_takes() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == f">={KUBERNETES[0]}.0-0"


def test_together_the_sets_of_values_reach_every_template() -> None:
    reached = {name for values in VALUES.values() for name, text in rendered(values).items() if text.strip()}
    templates = CHART / "templates"
    there = {str(path.relative_to(templates)) for path in templates.rglob("*") if path.is_file()}
    assert reached == {name for name in there if not name.endswith(".tpl")}


def test_a_template_makes_objects_of_one_kind() -> None:
    for values in VALUES.values():
        for name, text in rendered(values).items():
            if not name.endswith(".txt"):
                assert len({one["kind"] for one in yaml.safe_load_all(text) if one}) <= 1, name


def _different(wanted: Callable[[Object], bool]) -> list[Object]:
    """Of all sets of values, each object once."""
    return list({json.dumps(one): one for found in RELEASES.values() for one in found if wanted(one)}.values())


def _has_image_volume(one: Object) -> bool:
    return any("image" in volume for _, pod in pods([one]) for volume in pod.get("volumes", ()))


@pytest.mark.parametrize("version", KUBERNETES)
def test_objects_are_what_kubernetes_knows(version: str) -> None:
    ours = _different(lambda one: not _is_custom(one))
    for one in ours:
        if version != KUBERNETES[0] or not _has_image_volume(one):  # which values.yaml says are newer
            kubernetes_validate.validate(one, version, strict=True)
    assert any(map(_has_image_volume, ours))


def test_what_kubernetes_does_not_know_is_seen() -> None:
    one = copy.deepcopy(next(one for one in RELEASES["defaults"] if one["kind"] == "StatefulSet"))
    one["spec"]["template"]["spec"]["containers"][0]["image_pull_policy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError, match="image_pull_policy"):
        kubernetes_validate.validate(one, KUBERNETES[-1], strict=True)


def _faults(custom: list[Object]) -> list[str]:
    need_program("node")
    need((CRDS / "node_modules").exists(), "the models of custom resources, which `make chart` installs")
    told = subprocess.run(
        ["node", str(CRDS / "validate.mjs")], input=json.dumps(custom), capture_output=True, text=True, check=True
    )
    return told.stdout.splitlines()


CUSTOM = _different(_is_custom)


def test_custom_resources_are_what_their_definitions_say() -> None:
    assert {one["kind"] for one in CUSTOM} == {
        "CiliumNetworkPolicy",
        "HTTPRoute",
        "PodMonitor",
        "PrometheusRule",
        "ScaledObject",
        "ServiceMonitor",
    }
    assert set(_faults(CUSTOM)) == {""}


FAULTS: dict[str, Callable[[Any], object]] = {
    "CiliumNetworkPolicy": lambda spec: spec.update(egress="none"),
    "HTTPRoute": lambda spec: spec["rules"][0]["timeouts"].update(request="long"),
    "PodMonitor": lambda spec: spec.pop("selector"),
    "PrometheusRule": lambda spec: spec.update(groups={}),
    "ScaledObject": lambda spec: spec.pop("triggers"),
    "ServiceMonitor": lambda spec: spec["endpoints"][0].update(interval="thirty"),
}


def test_a_custom_resource_at_fault_is_seen() -> None:
    broken = []
    for kind, change in FAULTS.items():
        one = copy.deepcopy(next(one for one in CUSTOM if one["kind"] == kind))
        change(one["spec"])
        broken.append(one)
    assert "" not in _faults(broken)


RESTRICTED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "projected", "secret"} | {
    "persistentVolumeClaim"
}


def breaches(pod: Object) -> list[str]:
    """What the Pod Security Standard `restricted` has against a pod (kubernetes.io, Pod Security Standards)."""
    told = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    told += [f"volume {volume['name']}" for volume in pod.get("volumes", ()) if not set(volume) & RESTRICTED_VOLUMES]
    ours = pod.get("securityContext", {})
    for each in containers(pod):
        security = each.get("securityContext", {})
        both = ours | security
        told += [f"{each['name']}: host port" for port in each.get("ports", ()) if port.get("hostPort")]
        told += [f"{each['name']}: privileged"] if security.get("privileged") else []
        told += [] if security.get("allowPrivilegeEscalation") is False else [f"{each['name']}: privilege escalation"]
        told += [] if security.get("capabilities") == {"drop": ["ALL"]} else [f"{each['name']}: capabilities"]
        told += [] if both.get("runAsNonRoot") is True else [f"{each['name']}: may run as root"]
        told += [] if both.get("runAsUser") != 0 else [f"{each['name']}: runs as root"]
        profile = both.get("seccompProfile", {}).get("type")
        told += [] if profile in ("RuntimeDefault", "Localhost") else [f"{each['name']}: seccomp"]
    return told


@pytest.mark.parametrize("name", [name for name in RELEASES if "genpolicy" not in name])
def test_every_pod_is_restricted_those_of_tests_too(name: str) -> None:
    assert {pod: told for pod, spec in pods(RELEASES[name]) if (told := breaches(spec))} == {}


def test_a_pod_that_is_not_restricted_is_seen() -> None:
    spec = dict(pods(RELEASES["defaults"]))["StatefulSet/sottovoce-engine"]
    changes: list[Callable[[Any], object]] = [
        lambda pod: pod.update(hostNetwork=True),
        lambda pod: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
        lambda pod: pod["containers"][0]["ports"][0].update(hostPort=8800),
        lambda pod: pod["containers"][0]["securityContext"].update(privileged=True),
        lambda pod: pod["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),
        lambda pod: pod["containers"][0]["securityContext"].pop("capabilities"),
        lambda pod: pod["containers"][0]["securityContext"].update(runAsNonRoot=False),
        lambda pod: pod["containers"][0]["securityContext"].update(runAsUser=0),
        lambda pod: pod["containers"][0]["securityContext"].update(seccompProfile={"type": "Unconfined"}),
    ]
    for change in changes:
        pod = copy.deepcopy(spec)
        change(pod)
        assert len(breaches(pod)) == 1


@pytest.mark.parametrize("name", [name for name in RELEASES if "genpolicy" not in name])
def test_pods_are_given_no_token_and_no_variables_of_services(name: str) -> None:
    for pod, spec in pods(RELEASES[name]):
        assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False), pod


def test_root_file_systems_cannot_be_written_and_everything_has_its_share(found: list[Object]) -> None:
    for pod, spec in pods(found):
        for each in containers(spec):
            assert each["securityContext"]["readOnlyRootFilesystem"] is True, pod
            assert {"cpu", "memory"} <= set(each["resources"]["requests"]), pod
            assert {"cpu", "memory"} <= set(each["resources"]["limits"]), pod


def test_what_is_mounted_is_there_and_nothing_else(found: list[Object]) -> None:
    for pod, spec in pods(found):
        volumes = [volume["name"] for volume in spec.get("volumes", ())]
        mounts = [(each["name"], mount) for each in containers(spec) for mount in each.get("volumeMounts", ())]
        assert len(volumes) == len(set(volumes)), pod
        assert {mount["name"] for _, mount in mounts} == set(volumes), pod
        paths = [(container, mount["mountPath"]) for container, mount in mounts]
        assert len(paths) == len(set(paths)), pod
        assert not any("subPath" in mount for _, mount in mounts), pod  # what changed would not arrive


LABELS = {"name", "instance", "component", "version", "part-of", "managed-by"}


@pytest.mark.parametrize("name", VALUES)
def test_every_object_bears_the_labels_and_a_name_that_fits(name: str) -> None:
    seen = set()
    for one in RELEASES[name]:
        labels = one["metadata"]["labels"]
        assert {f"app.kubernetes.io/{label}" for label in LABELS} <= set(labels)
        assert labels["helm.sh/chart"] == "sottovoce-0.1.0"
        assert one["metadata"]["namespace"] == "speech"
        seen.add((one["kind"], one["metadata"]["name"]))
    assert len(seen) == len(RELEASES[name])


@pytest.mark.parametrize("fullname", ["", "a" * 80])
def test_names_fit_also_where_a_release_is_long(fullname: str) -> None:
    values = {"fullnameOverride": fullname, **VALUES["several engines"]}
    with helm.Chart.load(CHART) as chart:
        texts = chart.render(values, name="b" * 53, namespace="speech")
    names = [one["metadata"]["name"] for text in texts.values() if "kind:" in text for one in yaml.safe_load_all(text)]
    assert len(names) > 10
    assert all(len(f"{name}-0000") <= 63 for name in names)


def _selected(found: list[Object], labels: dict[str, str]) -> list[Object]:
    """Templates of pods that a selector finds. One label is given to pods by their StatefulSet."""
    wanted = {key: value for key, value in labels.items() if key != "statefulset.kubernetes.io/pod-name"}
    made = [one["spec"]["template"] for one in found if one["kind"] in ("Deployment", "StatefulSet")]
    return [pod for pod in made if wanted.items() <= pod["metadata"]["labels"].items()]


@pytest.mark.parametrize("name", VALUES)
def test_a_service_finds_the_pods_of_one_part_and_a_port_of_theirs(name: str) -> None:
    for service in (one for one in RELEASES[name] if one["kind"] == "Service"):
        (pod,) = _selected(RELEASES[name], service["spec"]["selector"])
        ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@pytest.mark.parametrize("name", VALUES)
def test_budgets_policies_and_workloads_find_the_pods_of_one_part(name: str) -> None:
    for one in RELEASES[name]:
        selector = one.get("spec", {}).get("selector") or one.get("spec", {}).get("podSelector")
        if one["kind"] in ("PodDisruptionBudget", "NetworkPolicy", "Deployment", "StatefulSet"):
            assert len(_selected(RELEASES[name], selector["matchLabels"])) == 1, one["metadata"]["name"]


def test_what_scales_is_not_given_a_number_of_pods_too() -> None:
    for name in ("scaled by requests", "scaled by Prometheus"):
        workloads = [one for one in RELEASES[name] if one["kind"] in ("Deployment", "StatefulSet")]
        assert [one["spec"].get("replicas") for one in workloads] == [None, None]
        scaled = [one for one in RELEASES[name] if one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")]
        targets = {(one["spec"]["scaleTargetRef"]["kind"], one["spec"]["scaleTargetRef"]["name"]) for one in scaled}
        assert targets == {(one["kind"], one["metadata"]["name"]) for one in workloads}


def test_only_what_is_several_has_a_budget() -> None:
    def budgets(name: str) -> list[str]:
        return [one["metadata"]["name"] for one in RELEASES[name] if one["kind"] == "PodDisruptionBudget"]

    assert budgets("defaults") == ["sottovoce-proxy"]
    assert budgets("plain-cpu") == []
    assert budgets("several engines") == ["sottovoce-engine", "sottovoce-proxy"]
    assert budgets("scaled by requests") == ["sottovoce-proxy"]  # of engines there may be one


def test_replicas_are_spread(found: list[Object]) -> None:
    for one in found:
        if one["kind"] in ("Deployment", "StatefulSet") and one["metadata"]["labels"].get("helm.sh/chart"):
            spread = one["spec"]["template"]["spec"]["topologySpreadConstraints"]
            assert [each["topologyKey"] for each in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
            assert all(each["labelSelector"] == one["spec"]["selector"] for each in spread)


RULES = YamlLintConfig(
    "{extends: default, rules: {line-length: {max: 140}, braces: {max-spaces-inside: 0}, document-start: disable,"
    " comments: {min-spaces-from-content: 1}, indentation: {indent-sequences: whatever}}}"
)


@pytest.mark.parametrize(
    "path",
    [*CHART.glob("*.yaml"), *sorted(PRESETS.iterdir()), CHART / "files" / "alerts.yaml", *EXAMPLE.glob("*.yaml")],
    ids=lambda path: path.name,
)
def test_yaml_is_tidy(path: Path) -> None:
    assert [str(problem) for problem in linter.run(path.read_text(), RULES)] == []


def test_what_is_rendered_has_no_key_twice_and_nothing_at_the_end_of_a_line() -> None:
    rules = YamlLintConfig("{rules: {key-duplicates: enable, trailing-spaces: enable}}")
    for name, values in VALUES.items():
        for template, text in rendered(values).items():
            if not template.startswith("monitoring/") and not template.endswith(".txt"):
                assert [str(problem) for problem in linter.run(text, rules)] == [], (name, template)


ACCEPTED_RISKS = {
    "CKV_K8S_43": "Images by digest: required where a guest is confidential, and whoever installs decides elsewhere.",
    "CKV_K8S_15": "Pull always: a tag of a release does not change.",
    "CKV2_K8S_6": "A NetworkPolicy for every pod: those of `helm test` live for seconds.",
    "CKV_K8S_8": "Liveness: pods of `helm test` end by themselves.",
    "CKV_K8S_9": "Readiness: likewise.",
    "CKV_K8S_35": "Secrets as files: all are, but the keys of a bucket, which have S3's own variables.",
    "CKV_K8S_21": "Another namespace than default: the example leaves it to whoever installs.",
}
"""Checks of checkov that something does not pass, and why that is as it should be."""


@pytest.mark.slow
def test_checkov_finds_nothing_but_what_is_accepted(tmp_path: Path) -> None:
    need(CHECKOV.exists(), "checkov, which `make chart` installs")
    for number, name in enumerate(name for name in RELEASES if "genpolicy" not in name):
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump_all(RELEASES[name]))
    told = subprocess.run(
        [CHECKOV, "-d", tmp_path, "--framework", "kubernetes", "--skip-download", "--compact", "-o", "json"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LOG_LEVEL": "ERROR"},
    )
    results = json.loads(told.stdout)["results"]
    assert len(results["passed_checks"]) > 1000
    found = {check["check_id"]: check["check_name"] for check in results["failed_checks"]}
    assert found.keys() == ACCEPTED_RISKS.keys(), found
