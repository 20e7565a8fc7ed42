"""Evaluate a checkpoint: `python eval.py --help`. The code is in maskcap/cli/eval.py."""

from maskcap.cli.eval import main

if __name__ == "__main__":
    main()
