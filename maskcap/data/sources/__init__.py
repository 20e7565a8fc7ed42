"""One file for each on-disk layout, each a map-style sequence of Records; building one reads annotations only."""

from __future__ import annotations

from maskcap.data.sources.osprey import OspreySource
from maskcap.data.sources.refcoco import RefCOCOSource
from maskcap.data.sources.sa1b import SA1BSource
from maskcap.data.sources.sav import SAVSource

__all__ = ["OspreySource", "RefCOCOSource", "SA1BSource", "SAVSource"]
