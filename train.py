"""Train: `python train.py --help`. The code is in maskcap/cli/train.py."""

from maskcap.cli.train import main

if __name__ == "__main__":
    main()
