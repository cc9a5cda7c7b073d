"""Where may a relying party's collateral come from? Told to each of its programs alike."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from core.program.files import cache_directory
from core.program.settings import ProgramSettings


class CollateralOptions(ProgramSettings):
    """The cache, and whether vendors are asked."""

    collateral_dir: Path | None = Field(
        None, description="Where collateral is cached. Default: the user's cache directory."
    )
    offline_collateral: bool = Field(
        False, description="Ask no vendor: collateral comes from the engine and the cache only."
    )

    @property
    def collateral_directory(self) -> Path:
        return self.collateral_dir or cache_directory()
