"""`maskcap report RUN …`: runs compared in one HTML page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from maskcap.errors import ConfigError, MaskcapError

HELP = """maskcap report: compare runs in one HTML page that needs no network.

Usage
  maskcap report RUN … [out=report.html] [title=TEXT]

  RUN is a run's folder, a pattern in quotes ('runs/demo/*'), or a folder of runs: a multirun's, an experiment's.
  The page holds the curves of all runs over one another, their final metrics, the settings in which they differ, their
  last pictures side by side, and how and where each was run. A run without metrics is named.

Examples
  maskcap report runs/demo
  maskcap report runs/demo/2026-01-01_12-00-00 runs/demo_cycle/2026-01-02_12-00-00 out=report.html

Exit code: 0, or 2 when a folder holds no run.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; `arguments` default to sys.argv[1:]. Raises SystemExit with code 2 for a user's mistake."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or {"-h", "--help"} & set(given):
        print(HELP, end="")
        return
    try:
        run(given)
    except MaskcapError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def run(words: Sequence[str]) -> Path:
    """Write the page of the runs that `words` name; returns its path.

    Raises ConfigError for a folder without runs, an option that does not exist, a page that cannot be written.
    """
    from maskcap.reports.html.page import write_report
    from maskcap.reports.html.runs import find_runs, read_runs

    places, options = _options(words)
    runs = read_runs(find_runs(places))
    path = Path(options["out"])
    try:
        write_report(runs, path, options["title"] or ", ".join(run.name for run in runs[:4]))
    except OSError as error:
        raise ConfigError(f"out={path} cannot be written: {error}") from error
    for each in runs:
        if each.missing:
            print(f"{each.path} has no {', no '.join(each.missing)}")
    print(f"{path}  {len(runs)} runs, {path.stat().st_size / 1e6:.1f} MB")
    return path


def _options(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Folders and options; a word with `=` is a folder too where one lies there."""
    from maskcap.signatures import did_you_mean

    options = {"out": "report.html", "title": ""}
    places = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or Path(word).exists():
            places.append(word)
        elif key in options:
            options[key] = value
        else:
            raise ConfigError(f"unknown option {key!r}{did_you_mean(key, list(options)) or ': there are out, title'}")
    if not places:
        raise ConfigError("give the folder of a run, or of several: maskcap report runs/demo")
    return places, options
