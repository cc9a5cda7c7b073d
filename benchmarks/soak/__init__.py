"""Does a fleet keep its promises while engines die under it? `python -m benchmarks.soak`; see `__main__`."""
