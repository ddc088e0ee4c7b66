"""The memories, one file each, and the interface that they share.

A memory keeps a state from one segment to the next: a tuple of arrays, each with one row per story (B, ...). It belongs
to a block, or to a segment as a whole. `p` is a dict of parameters by their short names: for a block's memory all of
the block's ("attn.Wqkv", "mem.Wq", ...), for a segment's memory its own. In a state and in a gradient None means zero.

Every memory declares

    param_shapes(cfg)                                  {short name: shape} of its parameters
    VECTORS                                            {short name: number}: what its gains and biases start from
    state_shapes(cfg)                                  {name: shape}: its state, without the axis B
    first_forward(p, *, cfg, B) -> state, cache        the state before the first segment, and, if it has parameters,
    first_backward(dstate, cache) -> dp                its gradient
    cost(cfg)                                          (multiply-adds, attention weights) of a segment

A block's memory is read in one of two ways, and then written from the segment's rows:

    read_forward(n, state, p, *, cfg) -> y, cache      y (B, T, D), which passes the output gate (`layers.output_gate`)
    read_backward(dy, cache) -> dn, dstate, dp
    keys_forward(state, p, *, cfg) -> k, v, cache      keys and values that join the block's own self-attention
    keys_backward(dk, dv, cache) -> dstate, dp
    write_forward(seg, state, p, *, cfg, pad=None) -> state', cache
    write_backward(dstate', cache) -> dseg, dstate, dp

`seg` is (n, y, k, v): the normed rows (B, T, D), what they read (B, T, D), the rotated keys and the values (B, T, G, K)
of the block's self-attention; `dseg` holds the same four gradients. WRITE_USES_READ says that the write needs y at
every position. A block writes after it has read, from the old state alone, so no mask is needed between segments. Where
stories are padded on the left, `pad` (B,) counts the positions to leave out.

A segment's memory adds rows to the sequence that all blocks see:

    enter_forward(x, state, *, cfg, pad=None, write=True) -> x', cache          and its backward
    leave_forward(h, *, last) -> h of the last tokens, state', cache            and its backward

A memory may declare more: `check(cfg)` raises ValueError for a Config that it cannot serve; `hidden(state)` (B,) counts
the keys to leave out; `looks(read, write)` names the attention weights and gates in its caches, for pictures; PAIRS
names the further pairs of the file with the shapes that the gradient checker draws, POSITIVE the arrays of the state
that are above zero in use, which it then draws so, and STORY the letters of a Config that its stories need larger.
PAGE_WRITE names the write of `inspect/page/model.js` that computes it as this file does; where none is declared, the
page shows a recording.
"""

from importlib.util import find_spec, module_from_spec
from typing import Any

from tinylm2.memories import armt, infini, lm2, memformer, pooled, rmt, titans, window

MEMORIES = {
    "lm2": lm2,
    "pooled": pooled,
    "rmt": rmt,
    "window": window,
    "memformer": memformer,
    "infini": infini,
    "armt": armt,
    "titans": titans,
    "none": None,
}


def variant(memory: Any, **functions: Any) -> Any:
    """A copy of a memory's module with some of its functions replaced, as an ablation needs it.

    The source runs once more, so the copy's other functions call the replacements and the original stays as it is.
    AttributeError where the module has no function of that name.
    """
    spec: Any = find_spec(memory.__name__)
    copy = module_from_spec(spec)
    spec.loader.exec_module(copy)
    for name, function in functions.items():
        getattr(copy, name)
        setattr(copy, name, function)
    return copy


MEMORIES["full"] = variant(window, size=window.unlimited)
