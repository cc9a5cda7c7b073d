"""What an application imports of this project: transports for its HTTP client (`sottovoce.transport`).

`keep_memory_private` does for an application what the programs do for themselves: no core dump, no look into it.
"""

from core.program.memory import keep_memory_private

__all__ = ["keep_memory_private"]
