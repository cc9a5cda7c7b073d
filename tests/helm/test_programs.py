"""Does the chart tell the programs what they understand? Every argument of every pod is read by the program itself."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import typer
from yarl import URL

from attestation.cli.main import VerifySettings
from attestation.cli.main import app as attest
from attestation.collateral.source import Sources
from attestation.document import WELL_KNOWN_PATH
from core.channel.gateway import WELL_KNOWN_GATEWAY_PATH, gateway_path, live_path
from core.program.settings import ProgramSettings, load_settings
from engine.backends.surroundings import MEMORY_DIRECTORY
from engine.commands import app as engine
from engine.settings import EngineSettings
from proxy.cli import app as sottovoce
from proxy.jobs.blobs import s3_store
from proxy.settings import DEFAULT_PORT, ProxySettings
from tests.attestation.policies import SNP, release, written
from tests.helm.chart import VALUES, Object, containers, defaults, pods, preset, rendered, the
from tests.helm.generated import OF_THE_CHART, PROGRAMS
from tests.helm.releases import RELEASES
from tests.helm.sidecar import application

APPS = {"sottovoce": sottovoce, "sottovoce-engine": engine, "sottovoce-attest": attest}


def read_by_its_program(container: Object) -> dict[str, Any]:
    """Arguments as the program's own command line reads them. Raises what typer raises of an unknown one."""
    program, name = container["command"]
    command: Any = typer.main.get_command(APPS[program])
    read = command.commands[name].make_context(name, list(container["args"]))
    return {key: value for key, value in read.params.items() if value not in (None, [], ())}


def _ours(found: list[Object]) -> list[Object]:
    """Containers that run a program of ours."""
    return [each for _, spec in pods(found) for each in containers(spec) if "command" in each]


@pytest.mark.parametrize("name", RELEASES)
def test_every_argument_is_one_of_the_program(name: str) -> None:
    started = _ours(RELEASES[name])
    assert started
    for each in started:
        assert read_by_its_program(each)


def test_an_argument_that_the_program_does_not_have_is_seen() -> None:
    with pytest.raises(Exception, match="No such option"):
        read_by_its_program({"command": ["sottovoce-engine", "serve"], "args": ["--max-uploads=3"]})


SETTINGS: Mapping[str, type[ProgramSettings]] = {
    "sottovoce-engine serve": EngineSettings,
    "sottovoce proxy": ProxySettings,
    "sottovoce-attest verify": VerifySettings,
}


@pytest.fixture
def laid_out(tmp_path: Path) -> Mapping[str, Path]:
    """What a pod would mount, by its path there."""
    signed = written(tmp_path, SNP + release(7))
    places = {"/etc/sottovoce/policy/policy.toml": signed}
    for word in ("api-key/api-key", "token/token"):
        places[f"/etc/sottovoce/{word}"] = tmp_path / word.replace("/", "-")
        places[f"/etc/sottovoce/{word}"].write_text("a-word\n")
    for name in ("ca/ca.crt", "tls/tls.crt", "tls/tls.key", "policy/trusted_root.json"):
        places[f"/etc/sottovoce/{name}"] = tmp_path / name.replace("/", "-")
        places[f"/etc/sottovoce/{name}"].touch()
    places["/etc/sottovoce/jobs-database/url"] = tmp_path / "jobs-database-url"
    places["/etc/sottovoce/jobs-database/url"].write_text("postgresql://jobs:word@db.example/jobs\n")
    places["/etc/sottovoce/api-keys/keys.toml"] = tmp_path / "keys.toml"
    places["/etc/sottovoce/api-keys/keys.toml"].write_text("version = 1\n")
    places["/models"] = tmp_path / "models"
    return places


def _moved(text: str, places: Mapping[str, Path]) -> str:
    for inside, here in places.items():
        text = text.replace(inside, str(here))
    return text


@pytest.mark.parametrize("name", RELEASES)
def test_every_program_takes_the_settings_that_it_is_given(name: str, laid_out: Mapping[str, Path]) -> None:
    for each in _ours(RELEASES[name]):
        kind = SETTINGS.get(" ".join(each["command"]))
        if kind is None:
            continue
        for argument in each["args"]:
            if found := re.match(r"--model=[^=]+=(/models/.+)", argument):
                Path(_moved(found[1], laid_out)).mkdir(parents=True, exist_ok=True)
        given = read_by_its_program({**each, "args": [_moved(argument, laid_out) for argument in each["args"]]})
        settings = load_settings(kind, {key: value for key, value in given.items() if key in kind.model_fields})
        assert settings.model_fields_set


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_the_chart_decides_itself_are_settings_of_the_program(name: str) -> None:
    assert OF_THE_CHART[name] <= set(PROGRAMS[name].model_fields)


def test_the_times_that_the_chart_reckons_with_are_those_of_the_programs() -> None:
    values = defaults()
    for part, kind in (("engine", EngineSettings), ("proxy", ProxySettings)):
        settings = values[part]["settings"]
        assert settings == {name: kind.model_fields[name].default for name in settings}


def _grace_s(values: Object, kind: str, name: str) -> int:
    pod = the(values, kind, name)["spec"]["template"]["spec"]
    assert isinstance(pod["terminationGracePeriodSeconds"], int)
    return pod["terminationGracePeriodSeconds"]


def test_a_pod_may_take_longer_to_stop_than_the_longest_transcription() -> None:
    engine_s = EngineSettings.model_fields["drain_s"].default
    assert engine_s >= EngineSettings.model_fields["request_timeout_s"].default
    assert _grace_s({}, "StatefulSet", "sottovoce-engine") == engine_s + 10 + 60
    overall_s = ProxySettings.model_fields["overall_timeout_s"].default
    assert _grace_s({}, "Deployment", "sottovoce-proxy") == overall_s + 10 + 60
    longer = {"engine": {"settings": {"drain_s": 7200.5}, "preStopSeconds": 5}}
    assert _grace_s(longer, "StatefulSet", "sottovoce-engine") == 7201 + 5 + 60


def test_the_sidecars_example_gives_its_pod_time_enough() -> None:
    (deployment,) = application()
    overall_s = ProxySettings.model_fields["overall_timeout_s"].default
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= overall_s + 60


def _engines(values: Object) -> list[str]:
    (container,) = the(values, "Deployment", "sottovoce-proxy")["spec"]["template"]["spec"]["containers"]
    return [argument.removeprefix("--engine=") for argument in container["args"] if argument.startswith("--engine=")]


def test_a_proxy_asks_the_engine_of_its_release_or_all_that_stand_behind_their_headless_service() -> None:
    assert _engines(VALUES["plain-cpu"]) == ["http://sottovoce-engine:8800"]
    assert _engines(VALUES["several engines"]) == ["dns+http://sottovoce-engine-pods:8800"]
    service = the(VALUES["several engines"], "Service", "sottovoce-engine-pods")
    assert service["spec"]["clusterIP"] == "None"
    assert {"name": "sealed", "port": 8800, "targetPort": "sealed"} in service["spec"]["ports"]


def test_a_proxy_is_told_of_as_many_engines_as_are_named() -> None:
    named = ["http://a:8800", "dns+https://b:8800", "srv+http://_sottovoce._tcp.c"]
    assert _engines({"proxy": {"engines": named}}) == named


def test_the_test_of_an_engine_judges_as_the_proxy_does() -> None:
    pod = the(VALUES["everything"], "Pod", "sottovoce-speech-test-engine")
    (verify,) = pod["spec"]["containers"]
    proxy = the(VALUES["everything"], "Deployment", "sottovoce-speech-proxy")["spec"]["template"]["spec"]["containers"][
        0
    ]
    theirs, its = read_by_its_program(verify), read_by_its_program(proxy)
    trust = set(VerifySettings.model_fields) & set(its) - {"config", "log_level", "log_format"}
    kept = trust - {"state_dir", "collateral_dir"}
    assert {name: theirs[name] for name in kept} == {name: its[name] for name in kept}
    assert len(kept) >= 5


def test_probes_ask_for_what_is_served() -> None:
    for found in RELEASES.values():
        for pod, spec in pods(found):
            for each in containers(spec):
                ports = {port["name"]: port["containerPort"] for port in each.get("ports", ())}
                for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                    if kind in each:
                        ask = each[kind]["httpGet"]
                        assert ask["path"] in ("/livez", "/readyz"), pod
                        assert ports[ask["port"]] in (8081, 8801), pod  # never the listener of applications
                assert "readyz" not in str(each.get("livenessProbe")), pod


def test_what_a_probe_asks_listens_beyond_the_container() -> None:
    for name in ("defaults", "everything", "the sidecar of an application"):
        for _, spec in pods(RELEASES[name]):
            for each in containers(spec):
                if "startupProbe" in each:
                    address = read_by_its_program(each)["status_listen"]
                    assert address.rpartition(":")[0] in ("0.0.0.0", "[::]")


def test_an_engine_has_time_to_load_and_is_left_alone_until_then() -> None:
    for name in ("defaults", "coco-snp-gpu", "plain-cpu"):
        spec = the(VALUES[name], "StatefulSet", "sottovoce-engine")["spec"]["template"]["spec"]
        startup = spec["containers"][0]["startupProbe"]
        assert startup["httpGet"]["path"] == "/readyz"
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 1200


def test_the_sidecar_listens_where_only_its_pod_is() -> None:
    (deployment,) = application()
    settings = read_by_its_program(deployment["spec"]["template"]["spec"]["initContainers"][0])
    assert settings["listen"] == [f"127.0.0.1:{DEFAULT_PORT}"]


def test_applications_may_call_the_proxy_by_every_name_of_its_service() -> None:
    proxy = the({}, "Deployment", "sottovoce-proxy")["spec"]["template"]["spec"]["containers"][0]
    hosts = read_by_its_program(proxy)["allow_host"]
    assert {"sottovoce-proxy", "sottovoce-proxy.speech", "sottovoce-proxy.speech.svc.cluster.local"} <= set(hosts)


def test_a_route_covers_what_an_engine_answers() -> None:
    (rule,) = the(VALUES["one engine behind a Gateway"], "HTTPRoute", "sottovoce-engine")["spec"]["rules"]
    prefixes = tuple(match["path"]["value"] for match in rule["matches"])
    asked = [WELL_KNOWN_PATH, WELL_KNOWN_GATEWAY_PATH, gateway_path("0" * 32), live_path("0" * 32)]
    assert all(path.startswith(prefixes) for path in asked)
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}


def test_the_vendors_that_may_be_asked_are_those_that_are() -> None:
    spec = the(VALUES["Cilium"], "CiliumNetworkPolicy", "sottovoce-engine")["spec"]
    names = {each["matchName"] for rule in spec["egress"] for each in rule.get("toFQDNs", ())}
    asked = {URL(getattr(Sources(), field.name)).host for field in dataclasses.fields(Sources)}
    assert names == asked | {"registry.example"}


def test_there_is_memory_where_weights_are_kept() -> None:
    spec = the(VALUES["coco-snp-gpu"], "StatefulSet", "sottovoce-engine")["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in spec["containers"][0]["volumeMounts"]}
    assert {path for path, volume in mounts.items() if volume.get("emptyDir", {}).get("medium") == "Memory"} == {
        str(MEMORY_DIRECTORY),
        "/tmp",
        "/var/lib/sottovoce",
    }


def test_settings_become_the_same_arguments_whatever_their_type() -> None:
    proxy = the(VALUES["everything"], "Deployment", "sottovoce-speech-proxy")["spec"]["template"]["spec"]["containers"][
        0
    ]
    given = read_by_its_program(proxy)
    assert given["idle_timeout_s"] == "90.5"
    assert given["exit_if_refused"] is False
    assert len(given["policy_signer"]) == 2
    assert given["allow_host"][-1] == "speech.example"
    engine_ = the(VALUES["everything"], "StatefulSet", "sottovoce-speech-engine")["spec"]["template"]["spec"]
    given = read_by_its_program(engine_["containers"][0])
    assert given["max_upload_bytes"] == "3489660928"  # and not 3.489660928e+09
    assert given["log_requests"] is True
    assert given["alias"] == ["whisper-1=openai/whisper-large-v3", "large=openai/whisper-large-v3"]


def _proxy(values: Object) -> Any:
    (container,) = the(values, "Deployment", "sottovoce-proxy")["spec"]["template"]["spec"]["containers"]
    return container


def test_jobs_of_one_proxy_are_kept_in_its_claim_and_sealed_with_keys_of_a_secret() -> None:
    pod = the(VALUES["jobs of one proxy"], "Deployment", "sottovoce-proxy")["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (container,) = pod["containers"]
    mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    settings = read_by_its_program(container)
    assert settings["jobs"] is True
    assert mounted[settings["jobs_dir"]]["persistentVolumeClaim"] == {"claimName": "jobs"}
    assert mounted[str(Path(settings["jobs_key"]).parent)]["secret"] == {"secretName": "jobs-key"}
    assert "jobs_database" not in settings


def test_a_proxy_that_keeps_jobs_in_a_file_is_replaced_before_the_next_one_starts() -> None:
    def strategy(name: str) -> Object:
        return cast("Object", the(VALUES[name], "Deployment", "sottovoce-proxy")["spec"]["strategy"])

    assert strategy("jobs of one proxy") == {"type": "Recreate"}
    assert strategy("jobs of many proxies") == {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_jobs_of_many_proxies_are_in_their_database_and_bucket() -> None:
    container = _proxy(VALUES["jobs of many proxies"])
    settings = read_by_its_program(container)
    assert settings["jobs_database"] == "@/etc/sottovoce/jobs-database/url"
    assert settings["jobs_blobs"] == "s3://recordings/speech"
    assert settings["jobs_allow_network"] == ["10.1.0.0/16", "10.2.0.0/16"]
    assert settings["jobs_max_file_bytes"] == "3489660928"
    assert settings["jobs_links"] is False
    assert "jobs_dir" not in settings


def test_a_proxy_takes_no_jobs_unless_it_is_told_to() -> None:
    assert not [name for name in read_by_its_program(_proxy({})) if name.startswith("jobs")]


OF_A_BUCKET = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION"}


def test_the_keys_of_a_bucket_come_of_a_secret_under_the_names_that_the_proxy_reads() -> None:
    variables = {variable["name"]: variable for variable in _proxy(VALUES["jobs of many proxies"])["env"]}
    assert set(variables) >= OF_A_BUCKET
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        assert variables[name]["valueFrom"]["secretKeyRef"]["name"] == "jobs-bucket"
    environ = {name: variable.get("value", "a-key") for name, variable in variables.items()}
    assert s3_store("s3://recordings/speech", environ).config["endpoint"] == "https://s3.example"


def test_no_setting_is_a_variable() -> None:
    """Who changes a pod's variables need not change what is measured; and the programs read only these."""
    allowed = {"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"}
    for values, found in RELEASES.items():
        for pod, spec in pods(found):
            for each in containers(spec):
                names = {variable["name"] for variable in each.get("env", ())}
                if (values, pod) == ("jobs of many proxies", "Deployment/sottovoce-proxy"):
                    names -= OF_A_BUCKET
                of_a_test = {"SSL_CERT_FILE"} if pod.startswith("Pod/") else set()
                assert names <= allowed | of_a_test or each["name"] == "application", pod


def test_the_plain_preset_says_what_it_is() -> None:
    assert preset("plain-cpu")["engine"]["settings"]["insecure_evidence"] is True
    assert "DEVELOPMENT EVIDENCE" in rendered(VALUES["plain-cpu"])["NOTES.txt"]
    assert "DEVELOPMENT EVIDENCE" not in rendered({})["NOTES.txt"]
