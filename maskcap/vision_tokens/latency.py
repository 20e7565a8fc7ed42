"""LatencyTable: what an image of so many crops costs in time on one device, as `maskcap tokens profile` measured it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maskcap.errors import ConfigError
from maskcap.vision_tokens.geometry import Geometry

COMPONENTS = ("preprocess", "vit", "projector", "prefill", "decode", "sam_encode", "sam_decode")
"""What is timed, in the order in which it runs; `decode` is of one new token. See `models/component_times.py`."""
_FORMAT = 1
_ADVICE = "`maskcap tokens profile` writes one"


@dataclass(frozen=True)
class LatencyRow:
    """One number of crops.

    rows, columns: their tiling. slots: tokens that the vision encoder computes for the image; tokens: those that the
    language model reads. ms: milliseconds of each component. total: milliseconds of one image from end to end, one
    caption of the table's `new_tokens` tokens and one mask.
    """

    crops: int
    rows: int
    columns: int
    slots: int
    tokens: int
    ms: Mapping[str, float]
    total: float


@dataclass(frozen=True)
class LatencyTable:
    """Latencies of 1…N crops, one image at a time.

    geometry, global_view: of the crops. device: its name. model: `component_times.model_name`. new_tokens: of the
    caption that is in each total. rows: ascending in crops. Raises ConfigError for rows that are not, or are none.
    """

    geometry: Geometry
    global_view: bool
    device: str
    model: str
    new_tokens: int
    rows: tuple[LatencyRow, ...]

    def __post_init__(self) -> None:
        crops = [row.crops for row in self.rows]
        if not crops or crops[0] < 1 or any(a >= b for a, b in zip(crops, crops[1:], strict=False)):
            raise ConfigError(f"a latency table needs rows of ascending numbers of crops from 1, not {crops}")
        for row in self.rows:
            if not all(math.isfinite(ms) and ms >= 0 for ms in (row.total, *row.ms.values())):
                raise ConfigError(f"latencies of {row.crops} crops: each is a number of milliseconds, at least 0")

    def crops_within(self, target_ms: float, max_crops: int) -> int:
        """The most measured crops, `max_crops` at most, whose total is within the target; 1 where there are none."""
        within = [row.crops for row in self.rows if row.crops <= max_crops and row.total <= target_ms]
        return max(within, default=1)

    def total(self, crops: int) -> float | None:
        """Milliseconds of an image of so many crops, None where that was not measured."""
        return next((row.total for row in self.rows if row.crops == crops), None)

    @property
    def fastest(self) -> LatencyRow:
        """The row with the smallest total."""
        return min(self.rows, key=lambda row: row.total)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they are written."""
        return {"format": _FORMAT, **asdict(self), "components": list(COMPONENTS)}

    def save(self, path: str | Path) -> None:
        """Write JSON; folders are made."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> LatencyTable:
        """What `save` wrote. Raises ConfigError, naming the file, where there is none or it is something else."""
        wrong = f"latency_table={path}"
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"{wrong} cannot be read ({error.strerror}): `maskcap tokens profile` writes one"
            ) from error
        except ValueError as error:
            raise ConfigError(f"{wrong} is not JSON ({error}): {_ADVICE}") from error
        try:
            if content["format"] != _FORMAT:
                raise ConfigError(f"format {content['format']!r}, this version reads {_FORMAT}")
            return LatencyTable(
                Geometry(**content["geometry"]),
                bool(content["global_view"]),
                str(content["device"]),
                str(content["model"]),
                int(content["new_tokens"]),
                tuple(_row(row) for row in content["rows"]),
            )
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ConfigError(
                f"{wrong} is not a latency table ({what}): `maskcap tokens profile` writes one"
            ) from error


def _row(row: Mapping[str, Any]) -> LatencyRow:
    crops, rows, columns, slots, tokens = (int(row[name]) for name in ("crops", "rows", "columns", "slots", "tokens"))
    ms = {name: float(row["ms"][name]) for name in COMPONENTS}
    return LatencyRow(crops, rows, columns, slots, tokens, ms, float(row["total"]))
