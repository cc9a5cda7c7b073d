"""What does `helm template` print? Helm's command line, of what the guide uses of it, over Helm as a library.

    python -m tests.helm.helm_command template RELEASE CHART [-n NS] [-f FILE] [--set A=B] [--set-file A=FILE]
        [--show-only TEMPLATE]

`install` checks the same and prints the notes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import helm_python as helm

from tests.helm.chart import Object, merged


def _values(given: argparse.Namespace) -> Object:
    """Files in their order, then what was set, as Helm does it."""
    files = [helm.values_from_yaml(Path(name).read_text()) for name in given.values]
    settings = [helm.parse_set_string(each) for each in given.set]
    return merged(*files, *settings, *(helm.parse_set_file(each) for each in given.set_file))


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="helm", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=["template", "install"])
    parser.add_argument("release")
    parser.add_argument("chart", type=Path)
    parser.add_argument("-n", "--namespace", default="default")
    parser.add_argument("-f", "--values", action="append", default=[])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--set-file", action="append", default=[])
    parser.add_argument("--show-only", default="")
    return parser


def main() -> None:
    given = _options().parse_args()
    values = _values(given)
    with helm.Chart.load(given.chart) as chart:
        chart.validate_schema(values)
        texts = chart.render(values, name=given.release, namespace=given.namespace)
    notes = given.command == "install"
    for name, text in sorted(texts.items()):
        if name.endswith("NOTES.txt") == notes and name.endswith(given.show_only) and text.strip():
            sys.stdout.write(f"---\n# Source: {name}\n{text.strip()}\n")


if __name__ == "__main__":
    main()
