"""Check my_a2.py: `python check.py`."""

import my_a2
import numpy as np
from checking import Checks

from tinylm2 import ops

checks = Checks(my_a2, ops)
d = np.random.default_rng(0).standard_normal

targets, weights = np.array([[0, 2, 4], [1, 1, 3]]), np.array([[1.0, 0.0, 2.0], [1.0, 1.0, 3.0]])
checks.equal("cross_entropy_forward of equal logits is ln V",
             lambda: my_a2.cross_entropy_forward(np.zeros((2, 3, 5)), targets=targets, weights=weights)[0], np.log(5))
checks.equal("cross_entropy_forward of large logits",
             lambda: my_a2.cross_entropy_forward(np.array([[1000.0, 0.0]]), targets=np.array([1]),
                                                 weights=np.array([2.0]))[0], 1000.0)
checks.pair("cross_entropy_backward", ops, "cross_entropy", d((2, 3, 5)), targets=targets, weights=weights)

checks.equal("rmsnorm_forward", lambda: my_a2.rmsnorm_forward(np.array([[1.0, 7.0]]), np.array([1.0, 10.0]), eps=0)[0],
             [[0.2, 14.0]])
checks.pair("rmsnorm_backward", ops, "rmsnorm", d((3, 4)), d(4))
checks.pair("rmsnorm_backward, more axes", ops, "rmsnorm", d((2, 3, 4)), d(4))
checks.end()
