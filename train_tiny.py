"""Train a tiny LM2 on bAbI stories hidden in filler, then ask it: arguments to Config to train to evaluate."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")       # the products are small: two threads are slower than one

import sys

from tinylm2 import runs
from tinylm2.commands import learn
from tinylm2.console import Parser, command


@command
def main(argv=None):
    parser = Parser(description=__doc__)
    learn.add_arguments(parser)
    args = parser.parse_args(argv)
    folder = runs.Folder(args.out)
    loaded, run = learn.start(folder, args)
    learn.train(folder, loaded, run, args)
    learn.evaluate(folder, loaded, args)


if __name__ == "__main__":
    sys.exit(main())
