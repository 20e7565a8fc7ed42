"""Tables of the page: final metrics with the best in bold, the settings in which runs differ, facts, predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from maskcap.metrics.captions import token_f1, without_tags
from maskcap.metrics.prediction import Prediction
from maskcap.reports.html.drawing import colour
from maskcap.reports.html.runs import RunFolder

_LOWER = ("loss", "seconds", "swap_", "truncated", "bad_", "error")  # parts of names of which less is better
_NEITHER = ("step", "epoch", "cycle_words", "lr-")  # names that tell no better from worse start so
_WORST = 20  # predictions listed


def better(name: str) -> int:
    """1: more is better; -1: less; 0: neither."""
    bare = name.removeprefix("val/").removeprefix("test/")
    if bare.startswith(_NEITHER):
        return 0
    return -1 if any(part in bare for part in _LOWER) else 1


def metrics_table(runs: Sequence[RunFolder]) -> str:
    """A row for each metric of metrics.json, a column for each run; "–" for what a run lacks."""
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    rows = []
    for name in sorted(names, key=lambda name: ("/" not in name, name)):
        values = [run.metrics.get(name) for run in runs]
        best = _best(values, better(name))
        cells = [_number(value, index in best) for index, value in enumerate(values)]
        rows.append([escape(name), *cells])
    return _table(["metric", *_heads(runs)], rows)


def settings_table(runs: Sequence[RunFolder]) -> str:
    """The settings that are not the same in all runs; "" where all are."""
    with_settings = [run for run in runs if run.settings]
    keys = dict.fromkeys(key for run in with_settings for key in run.settings)
    differ = [key for key in keys if len({repr(run.settings.get(key, _ABSENT)) for run in with_settings}) > 1]
    if not differ:
        return ""
    rows = [[escape(key), *(_setting(run.settings.get(key, _ABSENT)) for run in runs)] for key in differ]
    return _table(["setting", *_heads(runs)], rows)


def facts_table(runs: Sequence[RunFolder]) -> str:
    """Where each run lies, how it was started, and what run.json says of code and machine."""
    found = [{"folder": str(run.path), "command": run.command} | _flat(run.facts) for run in runs]
    names = dict.fromkeys(name for facts in found for name, value in facts.items() if value not in ("", None))
    rows = [[escape(name), *(escape(str(facts.get(name) or "–")) for facts in found)] for name in names]
    return _table(["", *_heads(runs)], rows)


def predictions_table(predictions: Sequence[Prediction]) -> str:
    """The masks with the lowest IoU, with the words that asked for them."""
    scored = sorted((each for each in predictions if each.iou is not None), key=lambda each: each.iou or 0.0)
    rows = [
        [escape(each.key), escape(each.region_id), escape(each.set_name), _text(each.phrase), _text(each.caption)]
        + [_text(each.predicted_caption), f"{each.iou:.3f}"]
        for each in scored[:_WORST]
    ]
    return _table(["record", "region", "set", "asked for", "true caption", "predicted caption", "IoU"], rows)


def answers_table(predictions: Sequence[Prediction]) -> str:
    """The answers with the fewest words in common with the true ones, tags left out, with their questions; "" without
    any."""
    answered = [each for each in predictions if each.predicted_answer is not None]
    scored = sorted(answered, key=lambda each: token_f1(without_tags(each.predicted_answer or ""), [each.answer or ""]))
    rows = [
        [escape(each.key), escape(each.set_name)]
        + [_text(text) for text in (each.question, each.answer, each.predicted_answer)]
        for each in scored[:_WORST]
    ]
    return _table(["record", "set", "question", "true answer", "predicted answer"], rows) if rows else ""


_ABSENT = object()


def _best(values: Sequence[Any], direction: int) -> set[int]:
    """Which hold the best number; none where all are the same, or there is one only."""
    numbers = {
        index: direction * value
        for index, value in enumerate(values)
        if isinstance(value, int | float) and math.isfinite(value)
    }
    if direction == 0 or len(set(numbers.values())) < 2:
        return set()
    most = max(numbers.values())
    return {index for index, value in numbers.items() if value == most}


def _number(value: Any, bold: bool) -> str:
    if not isinstance(value, int | float):
        return "–"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"<b>{text}</b>" if bold else text


def _setting(value: Any) -> str:
    return "–" if value is _ABSENT else escape(str(value))


def _text(value: str | None) -> str:
    return "–" if value is None else escape(value)


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """One level of names, lists as words; what is empty stays out."""
    found: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            found |= {f"{name} {inner}": each for inner, each in _flat(value).items()}
        else:
            found[name] = ", ".join(map(_words, value)) if isinstance(value, list) else value
    return found


def _words(value: Any) -> str:
    """A start of a run: when, at which step."""
    return " ".join(map(str, value.values())) if isinstance(value, Mapping) else str(value)


def _heads(runs: Sequence[RunFolder]) -> list[str]:
    return [f'<span style="color:{colour(i)}">{escape(run.name)}</span>' for i, run in enumerate(runs)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
