"""Check my_a5.py: `python check.py`."""

import my_a5
import numpy as np
from checking import Checks

from tinylm2.memories import lm2

checks = Checks(my_a5, lm2)
d = np.random.default_rng(0).standard_normal

k, v, Wqkv, Wo = d((2, 5, 2, 2)), d((2, 5, 2, 2)), d((8, 16)), d((8, 8))
same = np.broadcast_to(v[:, :1], v.shape)
checks.equal("write_attention_forward, where all tokens say the same, says it, too",
             lambda: my_a5.write_attention_forward(k, same, Wqkv, Wo, heads=(4, 2), slots=3)[0],
             np.broadcast_to(np.repeat(v[:, :1], 2, 2).reshape(2, 1, 8) @ Wo, (2, 3, 8)))
checks.pair("write_attention_backward", lm2, "write_attention", k, v, Wqkv, Wo, heads=(4, 2), slots=3)
checks.pair("write_attention_backward, padded", lm2, "write_attention", k, v, Wqkv, Wo, heads=(4, 2), slots=3,
            pad=np.array([2, 0]))

R, M = d((2, 2, 3, 4))
Win, Wforget = d((2, 4, 4)) / 2
shut, open_ = np.full(4, -60.0), np.full(4, 60.0)
checks.equal("memory_update_forward, nothing comes in and all of it stays",
             lambda: my_a5.memory_update_forward(R, M, Win, shut, Wforget, open_)[0], M)
checks.equal("memory_update_forward, all comes in and nothing stays",
             lambda: my_a5.memory_update_forward(R, M, Win, open_, Wforget, shut)[0], np.tanh(R))
checks.pair("memory_update_backward", lm2, "memory_update", R, M, Win, d(4), Wforget, d(4))
checks.end()
