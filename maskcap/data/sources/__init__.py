"""One file for each on-disk layout, each a map-style sequence of Records; building one reads annotations only."""

from __future__ import annotations

from maskcap.data.sources.describe_anything import DescribeAnythingSource
from maskcap.data.sources.folder import FolderSource
from maskcap.data.sources.gcg_flickr import GCGFlickrSource
from maskcap.data.sources.gcg_groundings import GCGGroundingsSource
from maskcap.data.sources.gcg_refcocog import GCGRefCOCOgSource
from maskcap.data.sources.grefcoco import GRefCOCOSource
from maskcap.data.sources.llava import LlavaSource
from maskcap.data.sources.osprey import OspreySource
from maskcap.data.sources.refcoco import RefCOCOSource
from maskcap.data.sources.referring_video import ReferringVideoSource
from maskcap.data.sources.sa1b import SA1BSource
from maskcap.data.sources.sa2va_finetune import Sa2VAFinetuneSource
from maskcap.data.sources.sav import SAVSource
from maskcap.data.sources.videochat import VideoChatSource

__all__ = [
    "DescribeAnythingSource",
    "FolderSource",
    "GCGFlickrSource",
    "GCGGroundingsSource",
    "GCGRefCOCOgSource",
    "GRefCOCOSource",
    "LlavaSource",
    "OspreySource",
    "RefCOCOSource",
    "ReferringVideoSource",
    "SA1BSource",
    "SAVSource",
    "Sa2VAFinetuneSource",
    "VideoChatSource",
]
