"""`maskcap COMMAND …`: the commands by name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import maskcap

# A command's module is imported when it is asked for: their imports take seconds.
COMMANDS = {name: f"maskcap.cli.{name}" for name in ("train", "eval", "check", "doctor", "report", "shard", "tokens")}
COMMANDS |= {f"tokens {word}": f"maskcap.cli.tokens_{word}" for word in ("profile", "sweep")}

HELP = """maskcap: train models that turn a mask into a caption and a caption into a mask.

Usage
  maskcap train [key=value …]               train; without arguments the demo      (= python train.py)
  maskcap eval checkpoint=FILE [key=value]  evaluate a checkpoint on any split     (= python eval.py)
  maskcap check data=… [key=value]          read every record, name every bad one
  maskcap doctor [key=value]                are the weights loaded, is [SEG] wired, does one batch overfit
  maskcap report RUN … [out=report.html]    compare runs in one HTML page
  maskcap shard data=… out=… [key=value]    write tar shards with index and checksums
  maskcap tokens image=… | data=…           crops or patches of a picture, crops of a data set
  maskcap tokens profile out=FILE           how long each part of a model takes, for 1, 2, … crops
  maskcap tokens sweep checkpoint=FILE …    accuracy and latency of a checkpoint over crops, or over alpha
  maskcap COMMAND --help                    examples, groups and choices of a command
  maskcap --version
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Raises SystemExit with code 2 for a command that does not exist."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(HELP, end="")
    elif given[0] == "--version":
        print(f"maskcap {maskcap.__version__}")
    elif (both := " ".join(given[:2])) in COMMANDS and len(given) > 1:
        import_module(COMMANDS[both]).main(given[2:])
    elif given[0] in COMMANDS:
        import_module(COMMANDS[given[0]]).main(given[1:])
    else:
        from maskcap.signatures import did_you_mean

        print(f"error: unknown command {given[0]!r}{did_you_mean(given[0], list(COMMANDS))}", file=sys.stderr)
        print(HELP, end="", file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    main()
