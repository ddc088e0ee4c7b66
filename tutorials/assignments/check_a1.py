"""Check my_a1.py: `python check.py`. The gradient checker that is used here is the one that you write."""

import my_a1
import numpy as np
from checking import Checks

from tinylm2 import gradcheck, ops

checks = Checks(my_a1, gradcheck, ops)
d = np.random.default_rng(0).standard_normal

x = np.array([1.0, 2.0, 3.0])
moves = [np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 1.0])]
checks.equal("central_differences of the sum of squares",
             lambda: my_a1.central_differences(lambda: x**2, x, moves, eps=0.5), [2.0, 10.0])
checks.equal("x is put back", lambda: x, [1.0, 2.0, 3.0])

slopes = np.array([[1.0, -4.0], [2.0, 2.0]])
checks.equal("worst_entry, its error", lambda: my_a1.worst_entry(slopes + [[0, 0], [1, -2]], slopes)[0], 0.5)
checks.equal("worst_entry, its index", lambda: my_a1.worst_entry(slopes + [[0, 0], [1, -2]], slopes)[1], (1, 1))
checks.equal("worst_entry, relative to a scale", lambda: my_a1.worst_entry(slopes + 1, slopes, 10.0)[0], 0.1)
checks.equal("worst_entry, a NaN", lambda: my_a1.worst_entry(slopes * np.nan, slopes)[0], np.inf)

checks.equal("linear_forward", lambda: my_a1.linear_forward(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]))[0],
             [[11.0]])
checks.pair("linear_backward", ops, "linear", d((3, 4)), d((4, 5)))
checks.pair("linear_backward, more axes", ops, "linear", d((2, 3, 4)), d((4, 5)))
checks.end()
