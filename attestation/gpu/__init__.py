"""What NVIDIA GPUs and NVSwitches report of themselves, and whether that is acceptable."""
