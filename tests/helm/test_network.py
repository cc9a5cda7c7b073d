"""Who may reach a pod, and whom may it reach?"""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from attestation.fetch import parse_engine_url
from tests.helm.chart import VALUES, Object, merged, objects, the

ENGINE = "sottovoce-engine"


def _rules(values: Object, name: str = ENGINE) -> Any:
    return the(values, "NetworkPolicy", name)["spec"]


def _ports(rules: list[Object]) -> list[list[Any]]:
    return [[port["port"] for port in rule["ports"]] for rule in rules]


@pytest.mark.parametrize("name", [name for name, values in VALUES.items() if "engine" not in str(values.get("proxy"))])
def test_of_an_engine_nothing_is_reached_but_sealed_requests_and_metrics(name: str) -> None:
    for policy in (one for one in objects(VALUES[name]) if one["kind"] == "NetworkPolicy"):
        if policy["metadata"]["labels"]["app.kubernetes.io/component"] == "engine":
            assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
            assert _ports(policy["spec"]["ingress"]) == [["sealed"], ["status"]]


def test_metrics_are_for_prometheus() -> None:
    for name in (ENGINE, "sottovoce-proxy"):
        (scraped,) = (rule for rule in _rules({}, name)["ingress"] if rule["ports"] == [{"port": "status"}])
        (namespaces,) = scraped["from"][0]["namespaceSelector"]["matchExpressions"]
        assert namespaces["values"] == ["monitoring"]


def test_an_engine_speaks_to_name_servers_and_to_public_addresses_by_https_alone() -> None:
    names, vendors = _rules({})["egress"]
    assert _ports([names, vendors]) == [[53, 53], [443]]
    blocks = [(ipaddress.ip_network(to["ipBlock"]["cidr"]), to["ipBlock"]["except"]) for to in vendors["to"]]
    for inside in ("10.1.2.3", "192.168.1.1", "172.20.0.1", "100.64.0.1", "169.254.169.254", "fd00::1", "fe80::1"):
        address = ipaddress.ip_address(inside)
        for network, holes in blocks:
            if address in network:
                assert any(address in ipaddress.ip_network(hole) for hole in holes), inside


def test_an_offline_engine_speaks_to_nobody() -> None:
    assert _rules(VALUES["offline"])["egress"] == []
    cilium = the(VALUES["Cilium, offline"], "CiliumNetworkPolicy", ENGINE)["spec"]
    assert cilium["egress"] == [{}]  # a rule without peers: default deny


def test_a_guest_finds_the_registry_of_its_own_image() -> None:
    offline = {"engine": {"settings": {"offline_collateral": True}}}
    assert _ports(_rules(merged(VALUES["coco-snp"], offline))["egress"]) == [[53, 53], [443]]
    registry = [{"to": [{"ipBlock": {"cidr": "10.0.0.9/32"}}], "ports": [{"port": 5000}]}]
    given = merged(VALUES["coco-snp"], offline, {"engine": {"networkPolicy": {"registryEgress": registry}}})
    assert _ports(_rules(given)["egress"]) == [[53, 53], [5000]]


def test_what_is_given_takes_the_place_of_public_addresses() -> None:
    egress = _rules(VALUES["everything"], "sottovoce-speech-engine")["egress"]
    assert _ports(egress) == [[53, 53], [3128]]


def test_a_proxy_is_used_from_its_namespace_and_reaches_the_engine() -> None:
    spec = _rules({}, "sottovoce-proxy")
    applications, scraped = spec["ingress"]
    assert applications == {"ports": [{"port": "apps"}], "from": [{"podSelector": {}}]}
    assert scraped["from"][1]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"
    _, engine, vendors = spec["egress"]
    assert engine["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "engine"
    assert _ports([engine, vendors]) == [["sealed"], [443]]


def test_the_test_of_a_proxy_reaches_it_whoever_else_may() -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"speech": "yes"}}}]
    given: Object = {"proxy": {"networkPolicy": {"from": peers}}}
    applications, _ = _rules(given, "sottovoce-proxy")["ingress"]
    assert applications["from"][0] == peers[0]
    assert applications["from"][1]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "test"
    applications, _ = _rules(merged(given, {"tests": {"enabled": False}}), "sottovoce-proxy")["ingress"]
    assert applications["from"] == peers


def test_a_proxy_reaches_the_database_of_its_jobs_beside_all_else() -> None:
    egress = _rules(VALUES["jobs of many proxies"], "sottovoce-proxy")["egress"]
    assert _ports(egress) == [[53, 53], ["sealed"], [5432], [443]]


def test_cilium_lets_out_to_names_alone() -> None:
    names, vendors = the(VALUES["Cilium"], "CiliumNetworkPolicy", ENGINE)["spec"]["egress"]
    asked = [each["matchName"] for each in names["toPorts"][0]["rules"]["dns"]]
    assert asked == [each["matchName"] for each in vendors["toFQDNs"]]
    assert not any(
        one["kind"] == "NetworkPolicy" and "engine" in one["metadata"]["name"] for one in objects(VALUES["Cilium"])
    )


def test_no_policies_where_none_are_wanted() -> None:
    assert not any("NetworkPolicy" in one["kind"] for one in objects(VALUES["no network policies"]))


def test_each_engine_of_several_has_a_name_and_a_route_of_its_own() -> None:
    found = objects(VALUES["several engines"])
    services = {one["metadata"]["name"]: one["spec"] for one in found if one["kind"] == "Service"}
    routes = {one["metadata"]["name"]: one["spec"] for one in found if one["kind"] == "HTTPRoute"}
    assert set(routes) == {f"{ENGINE}-{number}" for number in range(3)}
    for number in range(3):
        name = f"{ENGINE}-{number}"
        assert services[name]["selector"]["statefulset.kubernetes.io/pod-name"] == name
        assert routes[name]["hostnames"] == [f"{number}.engines.example"]
        assert routes[name]["rules"][0]["backendRefs"] == [{"name": name, "port": 8800}]
    assert ENGINE not in services  # an address before several would lead to engines that cannot open what is sent
    headless = services[f"{ENGINE}-pods"]
    assert headless["clusterIP"] == "None"
    assert the(VALUES["several engines"], "StatefulSet", ENGINE)["spec"]["serviceName"] == f"{ENGINE}-pods"


def test_every_service_of_an_engine_has_the_annotations_that_say_where_it_is_reached() -> None:
    inside = {"example.org/internal": "true"}
    for replicas in (1, 3):
        values = {"engine": {"replicas": replicas, "service": {"annotations": inside}}, "proxy": {"enabled": False}}
        services = [one for one in objects(values) if one["kind"] == "Service" and "clusterIP" not in one["spec"]]
        assert len(services) == replicas
        assert all(one["metadata"]["annotations"] == inside for one in services)


def test_a_proxy_knows_where_the_engine_will_be_while_there_is_none() -> None:
    (url,) = the({"engine": {"replicas": 0}}, "Pod", "sottovoce-test-engine")["spec"]["containers"][0]["args"][:1]
    assert url == "http://sottovoce-engine:8800"


def _verified(values: Object) -> list[str]:
    pod = the(values, "Pod", "sottovoce-test-engine")["spec"]
    return [parse_engine_url(container["args"][0]) for container in pod["containers"]]


def test_each_engine_of_several_is_verified_by_an_address_of_its_own() -> None:
    assert _verified({}) == ["http://sottovoce-engine:8800"]
    assert _verified(VALUES["application"]) == ["https://engine.example"]
    three = {"engine": {"replicas": 3}, "proxy": {"enabled": False}}
    assert _verified(three) == [f"http://sottovoce-engine-{number}:8800" for number in range(3)]
    named = {"proxy": {"engines": ["dns+https://b:8800", "srv+http://_sottovoce._tcp.c"]}}
    assert _verified(named) == ["https://b:8800"]  # whoever answers there; where `srv` leads no single address tells


def test_metrics_are_not_on_a_service_that_may_be_public() -> None:
    for name in VALUES:
        for service in (one for one in objects(VALUES[name]) if one["kind"] == "Service"):
            if any(port["name"] == "status" for port in service["spec"]["ports"]):
                assert service["spec"]["clusterIP"] == "None"
