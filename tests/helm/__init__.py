"""The chart: what it renders, what it refuses, and that it says the same as the programs."""
