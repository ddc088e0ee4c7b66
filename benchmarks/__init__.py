"""How fast, how large, how far: `python -m benchmarks.step` and `... scaling` write docs/PERFORMANCE.md.

Everything runs on one thread unless the environment says otherwise: both array libraries read this when they load.
"""

import os

for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
