"""What does an application's chart make of the sidecar? The example, with the chart as its dependency."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.helm.chart import CHART, Object, objects
from tests.places import ROOT

EXAMPLE: Final = ROOT / "examples" / "kubernetes" / "application"


@functools.cache
def _assembled() -> tempfile.TemporaryDirectory[str]:
    """The example as `helm dependency build` leaves it; removed when the process ends."""
    directory = tempfile.TemporaryDirectory()
    shutil.copytree(EXAMPLE, directory.name, dirs_exist_ok=True)
    shutil.copytree(CHART, Path(directory.name, "charts", "sottovoce"))
    return directory


def application(sidecar: Mapping[str, Any] | None = None) -> list[Object]:
    """The example's objects, with values of the sidecar."""
    return objects({"sottovoce": {"sidecar": dict(sidecar or {})}}, Path(_assembled().name))
