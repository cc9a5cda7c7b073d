"""What of the chart follows from something else? `python -m tests.helm.generated` writes it, tests compare.

- `helm/values.schema.json`: the settings of both programs, from their classes
- `helm/README.md`: the table of values, from `helm/values.yaml`
- `docs/kubernetes.md`: excerpts of what is rendered
- `examples/kubernetes/sidecar.yaml`: the sidecar in a plain manifest
- `examples/kubernetes/rendered`: all that is rendered, of some values
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from core.program.settings import ProgramSettings
from engine.settings import EngineSettings
from proxy.settings import ProxySettings
from tests.helm.chart import CHART, NAMESPACE, RELEASE, VALUES, Object, objects_of, rendered
from tests.helm.sidecar import application
from tests.places import ROOT

SCHEMA: Final = CHART / "values.schema.json"
README: Final = CHART / "README.md"
GUIDE: Final = ROOT / "docs" / "kubernetes.md"
MANIFEST: Final = ROOT / "examples" / "kubernetes" / "sidecar.yaml"

_OF_JOBS: Final = frozenset(name for name in ProxySettings.model_fields if name.startswith("jobs"))

OF_THE_CHART: Final[Mapping[str, frozenset[str]]] = {
    "proxySettings": frozenset(
        {"config", "policy", "engine", "api_key", "token", "tls_cert", "tls_key", "ca_file", "listen", "status_listen"}
        | {"state_dir", "collateral_dir"}
        | _OF_JOBS
    ),
    "jobsSettings": frozenset({"jobs", "jobs_dir", "jobs_key", "jobs_database", "jobs_blobs"}),
    # No vLLM that runs already: beside the engine there is nobody in its pod.
    "engineSettings": frozenset(
        {"config", "listen", "status_listen", "model", "alias", "policy", "api_keys", "collateral_dir"}
        | {"vllm_uds", "vllm_url"}
    ),
}
"""Settings that values of the chart's own decide, because an object of Kubernetes goes with each."""

OF_NO_POD: Final[Mapping[str, frozenset[str]]] = {
    "proxySettings": frozenset(name for name in ProxySettings.model_fields if name.startswith("policy_sigstore_"))
    | {"otlp_token"},
    "jobsSettings": frozenset(ProxySettings.model_fields) - _OF_JOBS | {"jobs_keyring", "jobs_link_resolver"},
    "engineSettings": frozenset({"otlp_token"}),
}
"""Settings that no pod could be started with: of extras and commands that the image leaves out, and of a secret without
a place; of jobs, besides, what stands under `proxy.settings`."""

PROGRAMS: Final[Mapping[str, type[ProgramSettings]]] = {
    "proxySettings": ProxySettings,
    "jobsSettings": ProxySettings,
    "engineSettings": EngineSettings,
}


def settings_schema(name: str) -> Object:
    """A schema of what may stand under `settings`."""
    whole = PROGRAMS[name].model_json_schema()
    properties = {
        setting: _plain(described, whole.get("$defs", {}))
        for setting, described in sorted(whole["properties"].items())
        if setting not in OF_THE_CHART[name] | OF_NO_POD[name]
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


_KEPT: Final = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def _plain(described: Mapping[str, Any], definitions: Mapping[str, Any]) -> Object:
    """Without what only pydantic wants to know: titles, defaults, formats, null."""
    (first, *_) = [one for one in described.get("anyOf", [described]) if one.get("type") != "null"]
    if "$ref" in first:
        first = definitions[first["$ref"].rpartition("/")[2]]
    plain: Object = {key: first[key] for key in _KEPT if key in first}
    if plain["type"] == "array":
        plain |= {"items": {"type": "string", "minLength": 1}, "minItems": 1, "uniqueItems": True}
    if plain["type"] == "string" and "enum" not in plain:
        plain["minLength"] = 1
    return plain | {"description": described["description"]}


def schema_text() -> str:
    schema = json.loads(SCHEMA.read_text())
    schema["definitions"] |= {name: settings_schema(name) for name in PROGRAMS}
    return _laid_out(schema) + "\n"


def _laid_out(value: Any, indent: int = 0, before: int = 0) -> str:
    """JSON, on one line what fits there. before: columns that its key takes."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or len(flat) + indent + before < 118:
        return flat
    pad, end = " " * (indent + 2), " " * indent
    if isinstance(value, list):
        parts = [pad + _laid_out(each, indent + 2) for each in value]
        return "[\n" + ",\n".join(parts) + f"\n{end}]"
    parts = [f"{pad}{json.dumps(key)}: {_laid_out(each, indent + 2, len(key) + 4)}" for key, each in value.items()]
    return "{\n" + ",\n".join(parts) + f"\n{end}}}"


def described_values() -> Iterator[tuple[str, str, Any]]:
    """(path, what it is for, default) of each line of values.yaml that has a comment `# -- ...` above."""
    path: list[tuple[int, str]] = []
    meaning = ""
    lines = (CHART / "values.yaml").read_text().splitlines()
    for line in lines:
        if found := re.fullmatch(r" *# -- (.*)", line):
            meaning = found[1]
        elif found := re.match(r"( *)([A-Za-z_]+):", line):
            indent = len(found[1])
            path = [step for step in path if step[0] < indent] + [(indent, found[2])]
            if meaning:
                names = [name for _, name in path]
                yield ".".join(names), meaning, _at(yaml.safe_load("\n".join(lines)), names)
                meaning = ""


def _at(values: Any, names: list[str]) -> Any:
    for name in names:
        values = values[name]
    return values


def values_table() -> str:
    rows = [
        f"| `{name}` | `{json.dumps(default, ensure_ascii=False)}` | {meaning.replace('|', chr(92) + '|')} |"
        for name, meaning, default in described_values()
    ]
    return "\n".join(["| value | default | meaning |", "| --- | --- | --- |", *rows])


_TABLE: Final = re.compile(r"(?<=<!-- values -->\n).*?(?=<!-- /values -->)", re.DOTALL)


def readme_text() -> str:
    text, tables = _TABLE.subn(lambda _: values_table() + "\n", README.read_text())
    if tables != 1:
        raise ValueError("helm/README.md lacks the place of its table")
    return text


_EXCERPT: Final = re.compile(r"(<!-- rendered: (?P<what>[^\n]*) -->\n```yaml\n).*?(?=```)", re.DOTALL)


def excerpt(what: str) -> str:
    """`VALUES; KIND/NAME; PATH PATH ...`: those parts of an object. `VALUES; objects`: what there is, line by line."""
    if what == "sidecar":
        (deployment,) = application()
        return _written(_parts(deployment["spec"]["template"]["spec"], ["initContainers", "volumes"]))
    values, wanted, *paths = [part.strip() for part in what.split(";")]
    texts = rendered(VALUES[values])
    found = [one for name, text in sorted(texts.items()) for one in objects_of(name, text)]
    if wanted == "objects":
        return "".join(f"- {one['kind']}/{one['metadata']['name']}\n" for one in found)
    kind, name = wanted.split("/")
    (whole,) = (one for one in found if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return _written(_parts(whole, paths[0].split()))


def _parts(whole: Object, paths: list[str]) -> Object:
    result: Object = {}
    for path in paths:
        steps = path.split(".")
        place: Any = result
        for step in steps[:-1]:
            place = place.setdefault(step, {})
        place[steps[-1]] = _at(whole, steps)
    return result


def _written(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=200)


def guide_text() -> str:
    return _EXCERPT.sub(lambda found: found[1] + excerpt(found["what"]), GUIDE.read_text())


def manifest_text() -> str:
    head = MANIFEST.read_text().partition("\n---\n")[0]
    return "\n---\n".join([head, *(_written(each).rstrip() for each in application())]) + "\n"


def rendered_text(name: str) -> str:
    preset = "" if name == "defaults" else f" -f helm/presets/{name}.yaml"
    image = _at(VALUES[name], ["engine", "image"]) if preset else {}
    chosen = "".join(f" --set engine.image.{key}={value}" for key, value in image.items())
    objects = [one for path, text in sorted(rendered(VALUES[name]).items()) for one in objects_of(path, text)]
    head = f"# helm template {RELEASE} helm/ -n {NAMESPACE}{preset}{chosen}"
    return "\n---\n".join([head, *(_written(each).rstrip() for each in objects)]) + "\n"


FILES: Final[Mapping[Path, Callable[[], str]]] = {
    SCHEMA: schema_text,
    README: readme_text,
    GUIDE: guide_text,
    MANIFEST: manifest_text,
    **{
        MANIFEST.parent / "rendered" / f"{name}.yaml": functools.partial(rendered_text, name)
        for name in ("defaults", "coco-snp-gpu", "coco-tdx-gpu")
    },
}


if __name__ == "__main__":
    for path, text in FILES.items():
        path.write_text(text())
