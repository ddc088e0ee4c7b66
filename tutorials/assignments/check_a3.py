"""Check my_a3.py: `python check.py`."""

import my_a3
import numpy as np
from checking import Checks

from tinylm2 import layers, ops

checks = Checks(my_a3, ops, layers)
d = np.random.default_rng(0).standard_normal

quarter = np.array([1.0, 0.0, 0.0, 1.0]).reshape(1, 1, 1, 4)
checks.equal("rope_forward turns a pair by its position",
             lambda: my_a3.rope_forward(quarter, start=1, base=1.0)[0].ravel(),
             [np.cos(1), np.sin(1), -np.sin(1), np.cos(1)])
checks.pair("rope_backward", ops, "rope", d((2, 5, 3, 4)))
checks.pair("rope_backward, from a later position", ops, "rope", d((2, 5, 3, 4)), start=7)

q, k, v = d((2, 5, 4, 3)), d((2, 5, 2, 3)), d((2, 5, 2, 3))
checks.equal("attend_forward over equal keys is a mean",
             lambda: my_a3.attend_forward(q[:, :, :2], 0 * k, v)[0], np.broadcast_to(v.mean(1, keepdims=True), v.shape))
checks.equal("attend_forward, causal: the first place sees itself",
             lambda: my_a3.attend_forward(q[:, :, :2], k, v, causal=True)[0][:, 0], v[:, 0])
checks.pair("attend_backward", ops, "attend", d((2, 3, 2, 4)), d((2, 5, 2, 4)), d((2, 5, 2, 4)))
checks.pair("attend_backward, causal", ops, "attend", q[:, :, :2], k, v, causal=True)
checks.pair("attend_backward, grouped heads", ops, "attend", q, k, v)
checks.pair("attend_backward, causal and padded", ops, "attend", q[:, :, :2], k, v, causal=True, pad=np.array([2, 0]))

checks.pair("self_attention_backward", layers, "self_attention", d((2, 5, 8)), None, d((8, 16)), d((8, 8)),
            heads=(4, 2))
checks.pair("self_attention_backward, the last rows ask", layers, "self_attention", d((2, 5, 8)), None,
            d((8, 16)), d((8, 8)), heads=(4, 2), last=2)
checks.pair("self_attention_backward, after a past", layers, "self_attention", d((2, 5, 8)),
            (d((2, 3, 2, 2)), d((2, 3, 2, 2))), d((8, 16)), d((8, 8)), heads=(4, 2), start=3)
checks.end()
