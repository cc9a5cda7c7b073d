"""What do all sets of values make, and an application with its sidecar? Rendered once for all tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.helm.chart import VALUES, Object, objects
from tests.helm.sidecar import application

RELEASES: Final[Mapping[str, list[Object]]] = {
    **{name: objects(values) for name, values in VALUES.items()},
    "the sidecar of an application": application(),
}
