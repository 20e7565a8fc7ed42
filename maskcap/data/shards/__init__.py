"""Tar shards: `maskcap shard` writes them (`write_shards`), `ShardSource` reads them, and SA-1B's published tars.

A set is a folder, or an fsspec URL:

    shard-000000.tar   webdataset's layout: 000000012.json, then 000000012.jpg (or .png, .mp4 …), image by image
    shard-000000.json  its index: size, sha256, where each group lies, keys and counts of its records
    index.json         every shard's size and sha256, the records' source and the options
    plan.json          what the folder is for; bad_samples.jsonl: what was left out, and why

records.py says what a group's JSON holds.
"""

from __future__ import annotations

from maskcap.data.shards.source import ShardSource

__all__ = ["ShardSource"]
