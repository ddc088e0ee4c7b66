"""Train a tiny LM2 on bAbI stories with filler between the facts, then evaluate it: `python -m tinylm2 train`."""

import sys

from tinylm2.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
