"""The page: one file, without network or scripts of others; pictures are inside as JPEG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from maskcap.reports.html.drawing import chart, colour
from maskcap.reports.html.runs import RunFolder
from maskcap.reports.html.tables import answers_table, facts_table, metrics_table, predictions_table, settings_table

_PICTURE = 1400  # px a picture is wide at most; larger ones are made smaller
_QUALITY = 82
_KINDS = {"step": "Predictions beside the truth", "pseudo": "Pseudo captions of training masks"}
_GROUPS = ("val", "test", "train", "throughput")  # of metrics, by what stands before their first "/"
_OPEN = ("val", "test", "train")

_STYLE = """body{font:14px/1.5 system-ui,sans-serif;color:#1f2933;margin:24px auto;max-width:1320px;padding:0 16px}
h1{font-size:22px}h2{font-size:17px;margin:28px 0 8px}summary{cursor:pointer;font-weight:600;margin:8px 0}
table{border-collapse:collapse;font-size:13px}th,td{padding:3px 12px 3px 0;text-align:left;vertical-align:top;
border-bottom:1px solid #e4e7eb;overflow-wrap:anywhere;max-width:420px}
td:not(:first-child){font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:8px 18px}
figure{margin:0}figcaption{font-size:12.5px;font-weight:600}.pictures{display:flex;gap:14px;overflow-x:auto}
.pictures figure{flex:1 0 420px}img{max-width:100%;border:1px solid #e4e7eb}
.keys label{margin-right:16px;font-weight:600}
.keys{position:sticky;top:0;background:#fffd;padding:6px 0}.note{color:#b3261e}"""
_SCRIPT = """document.querySelectorAll('.keys input').forEach(box=>box.addEventListener('change',()=>document
.querySelectorAll('.r'+box.value).forEach(line=>line.style.display=box.checked?'':'none')))"""


def report_page(runs: Sequence[RunFolder], title: str) -> str:
    """The HTML of these runs, in their order. Files that a run lacks are named at the top."""
    parts = [f"<h1>{escape(title)}</h1>", *_notes(runs), _keys(runs)]
    parts += ["<h2>Final metrics</h2>", metrics_table(runs)]
    if len(runs) > 1:
        differing = settings_table(runs)
        parts += ["<h2>Settings that differ</h2>", differing or "<p>None.</p>"]
    parts += _curves(runs)
    parts += _pictures(runs)
    for run in runs:
        if run.predictions:
            parts += [f"<h2>Lowest IoU: {escape(run.name)}</h2>", predictions_table(run.predictions)]
        if answers := answers_table(run.predictions):
            parts += [f"<h2>Worst answers: {escape(run.name)}</h2>", answers]
    parts += ["<h2>Runs</h2>", facts_table(runs)]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join(parts)
    return (
        f"<!doctype html><html><head>{head}<style>{_STYLE}</style></head><body>\n{body}\n"
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


def write_report(runs: Sequence[RunFolder], path: Path, title: str) -> None:
    """`report_page` in a file; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report_page(runs, title), encoding="utf-8")


def _notes(runs: Sequence[RunFolder]) -> list[str]:
    return [
        f'<p class="note">{escape(run.name)} has no {escape(", no ".join(run.missing))}.</p>'
        for run in runs
        if run.missing
    ]


def _keys(runs: Sequence[RunFolder]) -> str:
    boxes = [
        f'<label style="color:{colour(index)}"><input type="checkbox" checked value="{index}">'
        f" {escape(run.name)}</label>"
        for index, run in enumerate(runs)
    ]
    return f'<p class="keys">{"".join(boxes)}</p>'


def _curves(runs: Sequence[RunFolder]) -> list[str]:
    """A chart for each metric that any run logged, by group."""
    names = [run.name for run in runs]
    every = sorted({name for run in runs for name in run.series})
    groups: dict[str, list[str]] = {group: [] for group in _GROUPS}
    for name in every:
        groups.setdefault(name.partition("/")[0] if "/" in name else "other", []).append(name)
    parts = ["<h2>Curves</h2>"] if every else []
    for group, members in groups.items():
        if not members:
            continue
        charts = "".join(
            f"<figure><figcaption>{escape(name)}</figcaption>"
            + chart({index: run.series[name] for index, run in enumerate(runs) if name in run.series}, names)
            + "</figure>"
            for name in members
        )
        opened = " open" if group in _OPEN else ""
        parts.append(f'<details{opened}><summary>{escape(group)}</summary><div class="grid">{charts}</div></details>')
    return parts


def _pictures(runs: Sequence[RunFolder]) -> list[str]:
    """The last picture of each kind, the runs side by side."""
    parts = []
    for kind in dict.fromkeys(kind for run in runs for kind in run.pictures):
        figures = "".join(
            f'<figure class="r{index}"><figcaption style="color:{colour(index)}">{escape(run.name)}: '
            f'{escape(run.pictures[kind].stem)}</figcaption><img alt="" src="{data_uri(run.pictures[kind])}"></figure>'
            for index, run in enumerate(runs)
            if kind in run.pictures
        )
        parts += [f"<h2>{escape(_KINDS.get(kind, kind))}</h2>", f'<div class="pictures">{figures}</div>']
    return parts


def data_uri(picture: Path) -> str:
    """A picture file as a JPEG in a `data:` address, at most 1400 px wide."""
    from PIL import Image

    with Image.open(picture) as opened:
        image = opened.convert("RGB")
    if image.width > _PICTURE:
        image = image.resize((_PICTURE, round(image.height * _PICTURE / image.width)))
    held = io.BytesIO()
    image.save(held, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}"
