"""Typical mistakes in a memory of one's own, by which the grader of assignment 7 is tested.

Each is the model solution with some lines replaced, the function that must lose points, and what the report must say.
"""

from dataclasses import dataclass, field

from tutorials.assignments.own_memory import SOLUTION


@dataclass(frozen=True)
class Wrong:
    """One mistake: the lines that differ, the function under which the report names it, and a part of what it says."""

    name: str
    function: str
    symptom: str
    lines: dict = field(hash=False)

    def text(self):
        source = SOLUTION.read_text(encoding="utf-8")
        for right, wrong in self.lines.items():
            assert source.count(right) == 1, f"{self.name}: {right!r} must stand once in the solution"
            source = source.replace(right, wrong)
        return source


QUERY = "    q, by_query = ops.linear_forward(n, p"
SPLIT = "    dy = primitives.split_heads(dy, q.shape[1])\n"
JOIN = "    return primitives.join_heads(q @ A), (q, A, by_query)"
WRONG = [Wrong(*wrong) for wrong in (
    ("the state is a constant", "write_backward", "dA is not the slope", {
        "(keep[:, None, None] * dA_next,), dp": "(None,), dp"}),
    ("the state's gradient is not scaled", "write_backward", "dA is not the slope", {
        "(keep[:, None, None] * dA_next,), dp": "(dA_next,), dp"}),
    ("the gate is a constant", "write_backward", "dmem.bgate is not the slope", {
        '"mem.bgate": dz.sum((0, 1)), ': ""}),
    ("a bias's gradient from one story", "write_backward", "dmem.bgate is not the slope", {
        "dz.sum((0, 1))": "dz[0].sum(0)"}),
    ("a share of n is lost", "write_backward", "dn is not the slope", {
        "(dn + dn_v + dn_z, None": "(dn + dn_v, None"}),
    ("a factor is forgotten", "write_backward", "dmem.Wgate is not the slope", {
        "* real[..., None] / K\n": "* real[..., None]\n"}),
    ("keys and values exchanged", "write_backward", "dmem.Wk is not the slope", {
        '"mem.Wk": dWk, "mem.Wv": dWv': '"mem.Wk": dWv, "mem.Wv": dWk'}),
    ("the read's query transposed", "read_backward", "dn is not the slope", {
        "dy @ A.swapaxes(2, 3)": "dy @ A"}),
    ("the read has no gradient at the state", "read_backward", "is it left out", {
        "(q.swapaxes(2, 3) @ dy,)": "(None,)"}),
    ("a mean over the segment is read", "read_forward", "position 1 moves an earlier one", {
        QUERY: QUERY.replace("(n,", "(n - n.mean(1, keepdims=True),")}),
    ("a cumulative sum from the end", "read_forward", "moves an earlier one", {
        QUERY: QUERY.replace("(n,", "(n[:, ::-1].cumsum(1)[:, ::-1],")}),
    ("padding is written", "write_forward", "what stands in the padding", {
        "np.ones(n.shape[:2], n.dtype) if pad is None else": "np.ones(n.shape[:2], n.dtype) if True else"}),
    ("padding is off by one", "write_forward", "what stands in the padding", {
        ">= pad[:, None])": "> pad[:, None] - 2)"}),
    ("stories are mixed", "write_forward", "moves with another story", {
        "A_next = keep[:, None, None] * A +": "A_next = keep[:, None, None] * A.mean(0) +"}),
    ("nothing is written", "read_forward", "nothing is carried on", {
        "k.swapaxes(2, 3) @ (weight * v)\n": "0 * k.swapaxes(2, 3) @ (weight * v)\n"}),
    ("the state grows for ever", "write_forward", "it grows for ever", {
        "A_next = keep[:, None, None] * A +": "A_next = 2 * A +"}),
    ("a list that grows", "write_forward", "expected (2, 2, 4, 4)", {
        "    return (A_next,), (k,": "    A_next = np.concatenate((A, A_next), 1)\n    return (A_next,), (k,"}),
    ("double precision", "read_forward", "is float64 where the arguments are float32", {
        "W.dtype),), None": "float),), None"}),
    ("the state is no tuple", "first_forward", "must return 1 things", {
        "return (np.zeros((B, *state_shapes(cfg)[\"A\"]), W.dtype),), None":
            "return np.zeros((B, *state_shapes(cfg)[\"A\"]), W.dtype), None"}),
    ("a global remembers", "read_forward", "does something beside its arguments remember", {
        JOIN: "    SEEN.append(1)\n" + JOIN.replace("A),", "A) + len(SEEN),") + "\n\n\nSEEN = []"}),
    ("the cache is written into", "read_forward", "does it write into it", {
        SPLIT: f"{SPLIT}    q *= 2\n"}),
    ("a name that is taken", "first_forward", "other than mem.Wout and mem.bout", {
        '"mem.Wq": W, "mem.Wk": W': '"mem.Wout": W, "mem.Wq": W, "mem.Wk": W'}),
    ("a state without end", "first_forward", "more than 4096 numbers", {
        'return {"A": (cfg.H, cfg.K, cfg.K)}': 'return {"A": (cfg.H, cfg.K, cfg.K), "B": (4096,)}'}),
)]
