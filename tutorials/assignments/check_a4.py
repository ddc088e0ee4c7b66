"""Check my_a4.py: `python check.py`."""

import my_a4
import numpy as np
from checking import Checks

from tinylm2 import layers
from tinylm2.memories import lm2

checks = Checks(my_a4, lm2, layers)
d = np.random.default_rng(0).standard_normal

n, Mn, (Wq, Wk, Wv) = d((2, 5, 4)), d((2, 3, 4)), d((3, 4, 4))
checks.equal("cross_attention_forward, where all keys are alike, is a mean of the values",
             lambda: my_a4.cross_attention_forward(n, Mn, Wq, 0 * Wk, Wv, heads=2)[0],
             np.broadcast_to((Mn @ Wv).mean(1, keepdims=True), n.shape))
checks.pair("cross_attention_backward", lm2, "cross_attention", n, Mn, Wq, Wk, Wv, heads=2)

x, a, Emem = d((3, 2, 5, 4))
checks.equal("output_gate_forward, the gate half open",
             lambda: my_a4.output_gate_forward(x, a, Emem, 0 * Wq, np.zeros(4))[0], x + a + Emem / 2)
checks.pair("output_gate_backward", layers, "output_gate", x, a, Emem, Wq, d(4))
checks.end()
