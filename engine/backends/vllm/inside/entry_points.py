"""Whose code does vLLM load, of all that is installed beside it? Ours alone, or it does not start.

vLLM loads entry points of several groups (0.32: `vllm/plugins/__init__.py`). In those of `BY_NAME` it keeps to the
names in `VLLM_PLUGINS`; in `vllm.logits_processors` it loads whatever is installed. So that the statement's list of
plugins is the whole of it, the entry points that vLLM would load have to be `OURS`: one of another distribution that
bears our name is refused too, and so is any of a group that we do not know, which may not be filtered.

Run in vLLM's own processes, which load this without the rest of the engine.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

PLUGIN = "sottovoce"
"""The name of our entry points, for vLLM's allow-list `VLLM_PLUGINS`."""

OURS = (
    ("vllm.general_plugins", PLUGIN, "engine.backends.vllm.inside.plugin:register"),
    ("vllm.logits_processors", PLUGIN, "engine.backends.vllm.inside.logits:WhisperLogits"),
)
"""Group, name and target, as in `pyproject.toml`."""

BY_NAME = frozenset(
    {
        "vllm.endpoint_plugins",
        "vllm.general_plugins",
        "vllm.io_processor_plugins",
        "vllm.platform_plugins",
        "vllm.stat_logger_plugins",
    }
)
"""The groups in which vLLM loads only what `VLLM_PLUGINS` names."""

REFUSAL = "plugins that are not ours are installed beside vLLM"


def is_loaded(point: EntryPoint) -> bool:
    """Whether vLLM would load an entry point, our name being the one it lets in."""
    return point.group.startswith("vllm.") and (point.name == PLUGIN or point.group not in BY_NAME)


def refuse_foreign_plugins() -> None:
    """Raises RuntimeError unless vLLM would load our entry points and no others."""
    found = entry_points()  # as vLLM finds them: of a distribution that is there twice, those of the first
    points = (point for group in found.groups for point in found.select(group=group))
    loaded = sorted((point.group, point.name, point.value) for point in points if is_loaded(point))
    if loaded != sorted(OURS):
        raise RuntimeError(REFUSAL)
