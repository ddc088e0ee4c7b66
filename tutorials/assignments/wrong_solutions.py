"""Typical wrong solutions, each with what the feedback must say about it: the test of the feedback.

A wrong solution is the library's own with a mistake made in it. The mistake is wrapped round the right function, which
its code calls `right` (or `right_forward` and `right_backward`, where it needs both), so it survives whatever the
library does inside. `argument` and `symptom` are what one line of the feedback for `function` must hold: the argument
or output that is wrong, and words that are true of it.
"""

import argparse
import re
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tutorials.assignments import handout, slips
from tutorials.assignments.grader import ASSIGNMENTS, grade

# What a line of feedback guesses at, beside what was computed: a guess that a mistake does not declare misleads.
CLAIMS = re.compile(r"[^:;,]*\?|term dropped|one too many|points (roughly|another)|weight decay|started at zero")


@cache
def _solved(assignment):
    return handout.students_file(ASSIGNMENTS[assignment], solved=True)


@cache
def lines_of(file, assignment):
    """The lines of plain.py or of by_hand.py that solve an assignment."""
    text = (handout.HERE / file).read_text(encoding="utf-8")
    return re.search(rf"# -+ {assignment}\n(.*?)(?=\n# ---|\n__all__|\Z)", text, re.DOTALL)[1]


@dataclass(frozen=True)
class WrongSolution:
    """One mistake.

    code: definitions that stand behind the right ones, or edits (old, new) of the lines of `file`.  also: what may
    truly be said beside the symptom.
    """

    assignment: str
    mistake: str
    function: str
    argument: str
    symptom: str
    code: str | list
    also: str = "$^"
    file: str = "plain.py"

    def __str__(self):
        return f"{self.assignment}, {self.function}: {self.mistake}"

    @property
    def unit(self):
        """The number of the unit that examines the function."""
        return next(i for i, unit in enumerate(ASSIGNMENTS[self.assignment].units)
                    if any(name.partition(".")[2] == self.function for name in unit.functions))

    def text(self):
        """The whole file of the solution."""
        if not isinstance(self.code, str):
            lines = lines_of(self.file, self.assignment)
            for old, new in self.code:
                if old not in lines:
                    raise ValueError(f"{self}: found no {old!r} in {self.file}")
                lines = lines.replace(old, new)
            flat = "from tinylm2.flat import Flat\n" * (self.assignment == "a6")
            return f"{_solved(self.assignment)}\n\nimport math\nimport numpy as np\n{flat}{lines}"
        names = re.findall(r"^def (\w+)", self.code, re.MULTILINE)
        rights = "".join(f"right_{name.rpartition('_')[2]} = {name}\n" for name in names)
        right = f"import numpy as np\n\n{rights}right = {self.function.partition('.')[0]}\n"
        return f"{_solved(self.assignment)}\n\n{right}{self.code}"

    def explained(self, report):
        """Does the feedback name the function, the argument and the symptom in one line?"""
        return any(self.names(line) and re.search(self.symptom, line) for line in report.feedback(self.function))

    def names(self, line):
        """Does a line name the argument, or one of several that are parted by "|"?"""
        return any(part in line for part in self.argument.split("|"))

    def misled(self, report):
        """The claims in the feedback that are not true of this mistake."""
        return [f"{line} <{claim[0]}>" for line in report.feedback() for claim in CLAIMS.finditer(line)
                if not re.search(f"{self.symptom}|{self.also}", line)]

    def grade(self, folder, **how):
        """Report on this solution, from a file in the folder; only the unit that its mistake is in."""
        path = folder / f"my_{self.assignment}.py"
        path.write_text(self.text(), encoding="utf-8")
        return grade(ASSIGNMENTS[self.assignment], path, units=(self.unit,), **how)


A1 = [
    ("divides by eps", "central_differences", "slopes", "factor 2", """
def central_differences(f, x, moves, *, eps=1e-5):
    return 2 * right(f, x, moves, eps=eps)
"""),
    ("one-sided", "central_differences", "f was never asked at x - eps move", "one-sided", """
def central_differences(f, x, moves, *, eps=1e-5):
    here, slopes = x.copy(), []
    below = f()
    for move in moves:
        x[...] = here + eps * move
        slopes.append((f() - below).sum() / eps)
    x[...] = here
    return np.array(slopes)
"""),
    ("x not put back", "central_differences", "x is not what it was", "moved by", """
def central_differences(f, x, moves, *, eps=1e-5):
    slopes = right(f, x, moves, eps=eps)
    x -= eps * moves[-1]
    return slopes
"""),
    ("x put back by adding", "central_differences", "x is not what it was", "a copy does", """
def central_differences(f, x, moves, *, eps=1e-5):
    slopes = []
    for move in moves:
        x += eps * move
        above = f()
        x -= 2 * eps * move
        slopes.append((above - f()).sum() / (2 * eps))
        x += eps * move
    return np.array(slopes)
"""),
    ("moves a copy", "central_differences", "slopes", "zero everywhere", """
def central_differences(f, x, moves, *, eps=1e-5):
    return right(f, x.copy(), moves, eps=eps)
"""),
    ("flattens a copy of x", "central_differences", "slopes", "copy", """
def central_differences(f, x, moves, *, eps=1e-5):
    return right(f, x.reshape(-1), [move.reshape(-1) for move in moves], eps=eps)
"""),
    ("eps built in", "central_differences", "slopes", "eps = 0.25", """
def central_differences(f, x, moves, *, eps=1e-5):
    return right(f, x, moves, eps=1e-4)
"""),
    ("no absolute value", "worst_entry", "index", "is abs missing", """
def worst_entry(analytic, slopes, scale=None):
    error, index = right(np.maximum(analytic, slopes), slopes, scale)
    return error, index
"""),
    ("relative entry by entry", "worst_entry", "error", "relative to the slope there", """
def worst_entry(analytic, slopes, scale=None):
    error, index = right(analytic, slopes, scale)
    return abs(analytic - slopes)[index] / abs(slopes[index]), index
"""),
    ("not relative", "worst_entry", "error", "relative to the scale", """
def worst_entry(analytic, slopes, scale=None):
    return right(analytic, slopes, 1.0)
"""),
    ("a NaN passes", "worst_entry", "NaN", "expected inf", """
def worst_entry(analytic, slopes, scale=None):
    error, index = right(analytic, slopes, scale)
    return (float("nan") if error == math.inf else error), index
"""),
    ("dW transposed", "linear_backward", "dW", "transposed", """
def linear_backward(dy, cache):
    dx, dW = right(dy, cache)
    return dx, dW.T
"""),
    ("dx by W instead of W'", "linear_backward", "line", "ValueError", """
def linear_backward(dy, cache):
    dx, dW = right(dy, cache)
    return dy @ cache[1], dW
"""),
    ("a mean over the rows", "linear_backward", "dW", "mean (over .*)?(stands )?where a sum", """
def linear_backward(dy, cache):
    dx, dW = right(dy, cache)
    return dx, dW / (dy.size // dy.shape[-1])
"""),
    ("the first story's dW", "linear_backward", "dW", "story 0 alone|shape|rows", """
def linear_backward(dy, cache):
    x, W = cache
    return right(dy, cache)[0], right(dy[:1], (x[:1], W))[1]
"""),
    ("dW not summed over the stories", "linear_backward", "dW", "sum over axis 0 is missing", """
def linear_backward(dy, cache):
    x, W = cache
    return right(dy, cache)[0], x.swapaxes(-1, -2) @ dy
"""),
    ("two gradients swapped", "linear_backward", "dx", "has shape", """
def linear_backward(dy, cache):
    return right(dy, cache)[::-1]
"""),
]

A2 = [
    ("a mean over all places", "cross_entropy_forward", "loss", "doubling every weight", """
def cross_entropy_forward(logits, *, targets, weights):
    loss, cache = right(logits, targets=targets, weights=weights)
    return loss * weights.mean(), cache
"""),
    ("no maximum taken off", "cross_entropy_forward", "loss", "not finite|nan", """
def cross_entropy_forward(logits, *, targets, weights):
    loss, cache = right(logits, targets=targets, weights=weights)
    return loss + 0 * np.exp(logits).max(), cache
"""),
    ("softmax over the wrong axis", "cross_entropy_forward", "loss", "does the softmax run over the last axis", """
def cross_entropy_forward(logits, *, targets, weights):
    logp = logits - np.log(np.exp(logits).sum(0))
    picked = np.take_along_axis(logp, targets[..., None], -1)[..., 0]
    return -(weights * picked).sum() / weights.sum(), right(logits, targets=targets, weights=weights)[1]
"""),
    ("minus forgotten", "cross_entropy_forward", "loss", "sign is flipped", """
def cross_entropy_forward(logits, *, targets, weights):
    loss, cache = right(logits, targets=targets, weights=weights)
    return -loss, cache
"""),
    ("the one not taken off", "cross_entropy_backward", "dlogits", "add up to zero", """
def cross_entropy_forward(logits, *, targets, weights):
    loss, cache = right_forward(logits, targets=targets, weights=weights)
    return loss, (cache, targets, weights)


def cross_entropy_backward(dloss, cache):
    cache, targets, weights = cache
    (dlogits,) = right(dloss, cache)
    onehot = targets[..., None] == np.arange(dlogits.shape[-1])
    return dlogits + dloss * onehot * (weights / weights.sum())[..., None]
"""),
    ("dloss left out", "cross_entropy_backward", "dlogits", "does not move with dloss", """
def cross_entropy_backward(dloss, cache):
    return right(dloss / dloss, cache)
"""),
    ("sign flipped", "cross_entropy_backward", "dlogits", "sign is flipped", """
def cross_entropy_backward(dloss, cache):
    return -right(dloss, cache)[0]
"""),
    ("weights left out", "cross_entropy_backward", "dlogits", "weight zero must be zero", """
def cross_entropy_forward(logits, *, targets, weights):
    loss, _ = right_forward(logits, targets=targets, weights=weights)
    return loss, right_forward(logits, targets=targets, weights=0 * weights + 1)[1]


def cross_entropy_backward(dloss, cache):
    return right(dloss, cache)
"""),
    ("eps outside the root", "rmsnorm_forward", "y", "where does eps stand", """
def rmsnorm_forward(x, g, *, eps=1e-5):
    y, cache = right(x, g, eps=eps)
    return x * g / ((x * x).mean(-1, keepdims=True) ** 0.5 + eps), cache
"""),
    ("mean over the wrong axis", "rmsnorm_forward", "y", "axis 0 .*where axis -1", """
def rmsnorm_forward(x, g, *, eps=1e-5):
    return x * g / ((x * x).mean(0) + eps) ** 0.5, right(x, g, eps=eps)[1]
"""),
    ("a sum for the mean", "rmsnorm_forward", "y", "sum stands where a mean|1/sqrt\\(D\\)", """
def rmsnorm_forward(x, g, *, eps=1e-5):
    return x * g / ((x * x).sum(-1, keepdims=True) + eps) ** 0.5, right(x, g, eps=eps)[1]
"""),
    ("x scaled in place", "rmsnorm_forward", "x", "in place", """
def rmsnorm_forward(x, g, *, eps=1e-5):
    y, cache = right(x, g, eps=eps)
    x[...] = y / g
    return y, cache
"""),
    ("float64 inside", "rmsnorm_forward", "y", "is float64, expected float32", """
def rmsnorm_forward(x, g, *, eps=1e-5):
    y, cache = right(x, g, eps=eps)
    return y * np.ones(1), cache
"""),
    ("r taken for a constant", "rmsnorm_backward", "dx", "left out|missing", """
def rmsnorm_forward(x, g, *, eps=1e-5):
    y, cache = right_forward(x, g, eps=eps)
    return y, (y / x, cache)


def rmsnorm_backward(dy, cache):
    rg, cache = cache
    return dy * rg, right(dy, cache)[1]
"""),
    ("dg not summed", "rmsnorm_backward", "dg", "a sum over axis 0 and 1 is missing", """
def rmsnorm_forward(x, g, *, eps=1e-5):
    y, cache = right_forward(x, g, eps=eps)
    return y, (y / g, cache)


def rmsnorm_backward(dy, cache):
    n, cache = cache
    return right(dy, cache)[0], dy * n
"""),
    ("dg a mean over the rows", "rmsnorm_backward", "dg", "mean (over .*)?(stands )?where a sum", """
def rmsnorm_backward(dy, cache):
    dx, dg = right(dy, cache)
    return dx, dg / (dy.size // dy.shape[-1])
"""),
    ("g left out of dx", "rmsnorm_backward", "dx", "factor g is missing", """
def rmsnorm_forward(x, g, *, eps=1e-5):
    y, cache = right_forward(x, g, eps=eps)
    return y, (cache, right_forward(x, 0 * g + 1, eps=eps)[1])


def rmsnorm_backward(dy, cache):
    cache, ungained = cache
    return right(dy, ungained)[0], right(dy, cache)[1]
"""),
    ("the last call remembered", "rmsnorm_backward", "another call's", "beside the cache", """
def rmsnorm_forward(x, g, *, eps=1e-5):
    global last
    y, last = right_forward(x, g, eps=eps)
    return y, None


def rmsnorm_backward(dy, cache):
    return right(dy, last)
"""),
]

A3 = [
    ("halves turned instead of pairs", "rope_forward", "y", "are these the pairs", """
def rope_forward(x, *, start=0, step=1, base=10_000.0):
    K = x.shape[-1]
    order = [i // 2 + i % 2 * (K // 2) for i in range(K)]
    y, cache = right(x[..., order], start=start, step=step, base=base)
    z = 0 * y
    z[..., order] = y
    return z, cache
"""),
    ("turned the other way", "rope_forward", "y", "turned the other way", """
def rope_forward(x, *, start=0, step=1, base=10_000.0):
    return right(x, start=-start, step=-step, base=base)
"""),
    ("start ignored", "rope_forward", "y", "without start", """
def rope_forward(x, *, start=0, step=1, base=10_000.0):
    return right(x, step=step, base=base)
"""),
    ("positions from one", "rope_forward", "y", "at place 0 must be x", """
def rope_forward(x, *, start=0, step=1, base=10_000.0):
    return right(x, start=start + 1, step=step, base=base)
"""),
    ("turned forward in backward", "rope_backward", "dx", "turned forward once more", """
def rope_forward(x, *, start=0, step=1, base=10_000.0):
    return right_forward(x, start=start, step=step, base=base)[0], (start, step, base)


def rope_backward(dy, cache):
    start, step, base = cache
    return right_forward(dy, start=start, step=step, base=base)[0]
"""),
    ("scores not scaled", "attend_forward", "y", "which is sqrt\\(K\\)", """
def attend_forward(q, k, v, *, causal=False, pad=None):
    return right(q * q.shape[-1] ** 0.5, k, v, causal=causal, pad=pad)
"""),
    ("scores divided by K", "attend_forward", "y", "which is 1/sqrt\\(K\\)", """
def attend_forward(q, k, v, *, causal=False, pad=None):
    return right(q / q.shape[-1] ** 0.5, k, v, causal=causal, pad=pad)
"""),
    ("softmax over the queries", "attend_forward", "y", "over which axis does the softmax run", """
def attend_forward(q, k, v, *, causal=False, pad=None):
    P = np.exp(np.einsum("bthk,buhk->bhtu", q, k) / q.shape[-1] ** 0.5)
    P = P / P.sum(2, keepdims=True)
    return np.einsum("bhtu,buhk->bthk", P, v), right(q, k, v, causal=causal, pad=pad)[1]
"""),
    ("mask off by one", "attend_forward", "y", "must not see", """
def attend_forward(q, k, v, *, causal=False, pad=None):
    y, cache = right(q, k, v, causal=causal, pad=pad)
    if causal and pad is None:
        ends = range(k.shape[1] - q.shape[1] + 2, k.shape[1] + 2)
        y = np.concatenate([right(q[:, t:t + 1], k[:, :u], v[:, :u])[0] for t, u in enumerate(ends)], 1)
    return y, cache
"""),
    ("the mask forgotten", "attend_forward", "y", "without causal", """
def attend_forward(q, k, v, *, causal=False, pad=None):
    return right(q, k, v, pad=pad)
"""),
    ("padding seen", "attend_forward", "y", "without pad", """
def attend_forward(q, k, v, *, causal=False, pad=None):
    return right(q, k, v, causal=causal)
"""),
    ("heads grouped the wrong way round", "attend_forward", "y", "asks key head .*must ask head", """
def attend_forward(q, k, v, *, causal=False, pad=None):
    H, G = q.shape[2], k.shape[2]
    order = [h % (H // G) * G + h // (H // G) for h in range(H)]
    y, cache = right(q[:, :, order], k, v, causal=causal, pad=pad)
    z = 0 * y
    z[:, :, order] = y
    return z, cache
"""),
    ("no maximum taken off", "attend_forward", "y", "not finite", """
def attend_forward(q, k, v, *, causal=False, pad=None):
    y, cache = right(q, k, v, causal=causal, pad=pad)
    return y + 0 * np.exp(np.einsum("bthk,buhk->bhtu", q, k.repeat(q.shape[2] // k.shape[2], 2))).max(), cache
"""),
    ("dk not scaled", "attend_backward", "dk", "which is sqrt\\(K\\): did you scale the scores", """
def attend_backward(dy, cache):
    dq, dk, dv = right(dy, cache)
    return dq, dk * dk.shape[-1] ** 0.5, dv
"""),
    ("dq and dk swapped", "attend_backward", "dq", "has shape|swapped", """
def attend_backward(dy, cache):
    dq, dk, dv = right(dy, cache)
    return dk, dq, dv
"""),
    ("the sum in softmax's backward dropped", "attend_backward", "dq", "left out", """
def attend_forward(q, k, v, *, causal=False, pad=None):
    y, cache = right_forward(q, k, v, causal=causal, pad=pad)
    if q.shape[2] != k.shape[2]:
        return y, cache
    return y, (cache, q, y, right_forward(q, k, k, causal=causal, pad=pad)[0])


def attend_backward(dy, cache):
    if len(cache) != 4:
        return right(dy, cache)
    cache, q, y, gathered_k = cache
    dq, dk, dv = right(dy, cache)
    dropped = (dy * y).sum(-1, keepdims=True) / q.shape[-1] ** 0.5       # of dS = P * (dP - sum(dP * P))
    return dq + dropped * gathered_k, dk + right(dropped * q, cache)[2], dv
"""),
    ("only the first head of a group reaches k", "attend_backward", "dk", "only query head 0", """
def attend_forward(q, k, v, *, causal=False, pad=None):
    y, cache = right_forward(q, k, v, causal=causal, pad=pad)
    return y, (cache, q.shape[2] // k.shape[2])


def attend_backward(dy, cache):
    cache, R = cache
    first = dy.copy()
    for h in range(dy.shape[2]):
        first[:, :, h] *= h % R == 0
    return right(dy, cache)[0], *right(first, cache)[1:]
"""),
    ("the slots' share forgotten", "self_attention_backward", "dWqkv", "were dk and dv zero", """
def self_attention_backward(da, dk, dv, cache):
    return right(da, None, None, cache)
"""),
    ("dv forgotten", "self_attention_backward", "dWqkv", "were dv zero", """
def self_attention_backward(da, dk, dv, cache):
    return right(da, dk, None if dv is None else 0 * dv, cache)
"""),
    ("writes into dk", "self_attention_backward", "dk", "in place", """
def self_attention_backward(da, dk, dv, cache):
    gradients = right(da, dk, dv, cache)
    if dk is not None:
        dk += da.sum()
    return gradients
"""),
    ("the past takes no gradient", "self_attention_backward", "dpast.0", "zero everywhere, or left out", """
def self_attention_backward(da, dk, dv, cache):
    dn, _, dWqkv, dWo = right(da, dk, dv, cache)
    return dn, None, dWqkv, dWo
"""),
    ("takes the slots for granted", "self_attention_backward", "line", "raised", """
def self_attention_backward(da, dk, dv, cache):
    return right(da, dk + 0, dv + 0, cache)
"""),
]

A4 = [
    ("keys and values swapped", "cross_attention_forward", "Emem", "mixture of that head's part", """
def cross_attention_forward(n, Mn, Wq, Wk, Wv, *, heads):
    return right(n, Mn, Wq, Wv, Wk, heads=heads)
"""),
    ("scaled a second time", "cross_attention_forward", "Emem", "which is 1/sqrt\\(K\\)", """
def cross_attention_forward(n, Mn, Wq, Wk, Wv, *, heads):
    return right(n, Mn, Wq / (n.shape[-1] // heads) ** 0.5, Wk, Wv, heads=heads)
"""),
    ("heads left out", "cross_attention_forward", "Emem", "in that head", """
def cross_attention_forward(n, Mn, Wq, Wk, Wv, *, heads):
    return right(n, Mn, Wq, Wk, Wv, heads=1)
"""),
    ("values not multiplied by Wv", "cross_attention_forward", "Emem", "Wv", """
def cross_attention_forward(n, Mn, Wq, Wk, Wv, *, heads):
    return right(n, Mn, Wq, Wk, np.eye(n.shape[-1], dtype=n.dtype), heads=heads)
"""),
    ("one story's bank read by all", "cross_attention_forward", "Emem", "of another|must see", """
def cross_attention_forward(n, Mn, Wq, Wk, Wv, *, heads):
    return right(n, 0 * Mn + Mn[:1], Wq, Wk, Wv, heads=heads)
"""),
    ("dMn through the keys only", "cross_attention_backward", "dMn", "left out|missing", """
def cross_attention_forward(n, Mn, Wq, Wk, Wv, *, heads):
    Emem, cache = right_forward(n, Mn, Wq, Wk, Wv, heads=heads)
    qkv = [(x @ W).reshape(*x.shape[:2], heads, -1) for x, W in ((n, Wq), (Mn, Wk), (Mn, Wv))]
    return Emem, (cache, ops.attend_forward(*qkv)[1], Wv, heads)


def cross_attention_backward(dEmem, cache):
    cache, attend, Wv, heads = cache
    dn, dMn, dWq, dWk, dWv = right(dEmem, cache)
    dv = ops.attend_backward(dEmem.reshape(*dEmem.shape[:2], heads, -1), attend)[2]
    return dn, dMn - dv.reshape(dMn.shape) @ Wv.T, dWq, dWk, dWv
"""),
    ("the bank detached", "cross_attention_backward", "dMn", "zero everywhere", """
def cross_attention_backward(dEmem, cache):
    dn, dMn, dWq, dWk, dWv = right(dEmem, cache)
    return dn, 0 * dMn, dWq, dWk, dWv
"""),
    ("dWk and dWv swapped", "cross_attention_backward", "dWk", "gradient of dWv", """
def cross_attention_backward(dEmem, cache):
    dn, dMn, dWq, dWk, dWv = right(dEmem, cache)
    return dn, dMn, dWq, dWv, dWk
"""),
    ("dWq transposed", "cross_attention_backward", "dWq", "transposed", """
def cross_attention_backward(dEmem, cache):
    dn, dMn, dWq, dWk, dWv = right(dEmem, cache)
    return dn, dMn, dWq.T, dWk, dWv
"""),
    ("dWv of one story", "cross_attention_backward", "dWv", "story 0 alone", """
def cross_attention_backward(dEmem, cache):
    dn, dMn, dWq, dWk, dWv = right(dEmem, cache)
    first = dEmem.copy()
    first[1:] = 0
    return dn, dMn, dWq, dWk, right(first, cache)[4]
"""),
    ("the gate over everything", "output_gate_forward", "y", "with the gate shut", """
def output_gate_forward(x, a, Emem, Wout, bout):
    y, cache = right(x, a, Emem, Wout, bout)
    gout = (y - x - a) / Emem
    return gout * (x + a + Emem), cache
"""),
    ("the gate asks x", "output_gate_forward", "y", "what does the gate ask", """
def output_gate_forward(x, a, Emem, Wout, bout):
    gate = (right(x, a, x, Wout, bout)[0] - x - a) / x
    return x + a + gate * Emem, right(x, a, Emem, Wout, bout)[1]
"""),
    ("bout left out", "output_gate_forward", "y", "does not move with bout", """
def output_gate_forward(x, a, Emem, Wout, bout):
    return right(x, a, Emem, Wout, 0 * bout)
"""),
    ("adds into x", "output_gate_forward", "x", "in place", """
def output_gate_forward(x, a, Emem, Wout, bout):
    y, cache = right(x, a, Emem, Wout, bout)
    x[...] = y
    return x, cache
"""),
    ("dEmem through the product only", "output_gate_backward", "dEmem", "left out", """
def output_gate_forward(x, a, Emem, Wout, bout):
    y, cache = right_forward(x, a, Emem, Wout, bout)
    return y, (cache, (y - x - a) / Emem)


def output_gate_backward(dy, cache):
    cache, gout = cache
    dx, da, dEmem, dWout, dbout = right(dy, cache)
    return dx, da, dy * gout, dWout, dbout
"""),
    ("dbout not summed over stories", "output_gate_backward", "dbout", "sum over axis 0 is missing", """
def output_gate_backward(dy, cache):
    dx, da, dEmem, dWout, dbout = right(dy, cache)
    alone = [right(dy * (np.arange(len(dy)) == b)[:, None, None], cache)[4] for b in range(len(dy))]
    return dx, da, dEmem, dWout, np.stack(alone)
"""),
    ("no gradient at a", "output_gate_backward", "da", "zero everywhere, or left out", """
def output_gate_backward(dy, cache):
    dx, _, dEmem, dWout, dbout = right(dy, cache)
    return dx, None, dEmem, dWout, dbout
"""),
    ("dWout the other way round", "output_gate_backward", "dWout", "transposed", """
def output_gate_backward(dy, cache):
    dx, da, dEmem, dWout, dbout = right(dy, cache)
    return dx, da, dEmem, dWout.T, dbout
"""),
    ("dbout a mean", "output_gate_backward", "dbout", "mean", """
def output_gate_backward(dy, cache):
    dx, da, dEmem, dWout, dbout = right(dy, cache)
    return dx, da, dEmem, dWout, dbout / dy.shape[1]
"""),
]

A5 = [
    ("the address not scaled", "write_attention_forward", "R", "which is 1/sqrt\\(D\\)", """
def write_attention_forward(k, v, Wqkv, Wo, *, heads, slots, pad=None):
    W = Wqkv.copy()
    W[:slots] /= len(W) ** 0.5
    return right(k, v, W, Wo, heads=heads, slots=slots, pad=pad)
"""),
    ("slots stand on the last token", "write_attention_forward", "R", "must stand at position T", """
def write_attention_forward(k, v, Wqkv, Wo, *, heads, slots, pad=None):
    moved, _ = ops.rope_forward(k, start=1, step=0)
    return right(moved, v, Wqkv, Wo, heads=heads, slots=slots, pad=pad)
"""),
    ("slots not turned", "write_attention_forward", "R", "at position 0, and they must stand at position T", """
def write_attention_forward(k, v, Wqkv, Wo, *, heads, slots, pad=None):
    moved, _ = ops.rope_forward(k, start=k.shape[1], step=0)
    return right(moved, v, Wqkv, Wo, heads=heads, slots=slots, pad=pad)
"""),
    ("padding seen", "write_attention_forward", "R", "without pad", """
def write_attention_forward(k, v, Wqkv, Wo, *, heads, slots, pad=None):
    return right(k, v, Wqkv, Wo, heads=heads, slots=slots)
"""),
    ("the last rows of Wq", "write_attention_forward", "R", "R is wrong", """
def write_attention_forward(k, v, Wqkv, Wo, *, heads, slots, pad=None):
    return right(k, v, Wqkv[::-1].copy(), Wo, heads=heads, slots=slots, pad=pad)
"""),
    ("Wo left out", "write_attention_forward", "R", "has shape|does not move with Wo", """
def write_attention_forward(k, v, Wqkv, Wo, *, heads, slots, pad=None):
    return right(k, v, Wqkv, np.eye(*Wo.shape, dtype=k.dtype), heads=heads, slots=slots, pad=pad)
"""),
    ("dWqkv not scaled", "write_attention_backward", "dWqkv", "which is 1/sqrt\\(D\\): is the address", """
def write_attention_backward(dR, cache):
    dk, dv, dWqkv, dWo = right(dR, cache)
    return dk, dv, dWqkv / len(dWqkv) ** 0.5, dWo
"""),
    ("dWqkv of the first story", "write_attention_backward", "dWqkv", "story 0 alone", """
def write_attention_backward(dR, cache):
    dk, dv, dWqkv, dWo = right(dR, cache)
    first = dR.copy()
    first[1:] = 0
    return dk, dv, right(first, cache)[2], dWo
"""),
    ("a mean over the stories", "write_attention_backward", "dWqkv", "1/B: is it a mean over B", """
def write_attention_backward(dR, cache):
    dk, dv, dWqkv, dWo = right(dR, cache)
    return dk, dv, dWqkv / len(dR), dWo
"""),
    ("only the rows that were asked", "write_attention_backward", "dWqkv", "has shape", """
def write_attention_backward(dR, cache):
    dk, dv, dWqkv, dWo = right(dR, cache)
    return dk, dv, dWqkv[:dR.shape[1]], dWo
"""),
    ("dk and dv swapped", "write_attention_backward", "dk", "gradient of dv", """
def write_attention_backward(dR, cache):
    dk, dv, dWqkv, dWo = right(dR, cache)
    return dv, dk, dWqkv, dWo
"""),
    ("Wqkv detached", "write_attention_backward", "dWqkv", "zero everywhere", """
def write_attention_backward(dR, cache):
    dk, dv, dWqkv, dWo = right(dR, cache)
    return dk, dv, None, dWo
"""),
    ("gates swapped", "memory_update_forward", "M'", "are the gates swapped", """
def memory_update_forward(R, M, Win, bin, Wforget, bforget):
    return right(R, M, Wforget, bforget, Win, bin)
"""),
    ("no tanh", "memory_update_forward", "M'", "must be tanh\\(R\\)", """
def memory_update_forward(R, M, Win, bin, Wforget, bforget):
    M_next, cache = right(R, M, Win, bin, Wforget, bforget)
    new = right(R, 0 * M, Win, bin, Wforget, bforget)[0]
    return M_next + new * (R / np.tanh(R) - 1), cache
"""),
    ("as much goes as comes", "memory_update_forward", "M'", "does not move with Wforget", """
def memory_update_forward(R, M, Win, bin, Wforget, bforget):
    M_next, cache = right(R, M, Win, bin, Wforget, bforget)
    new = right(R, 0 * M, Win, bin, Wforget, bforget)[0]
    return new + (1 - new / np.tanh(R)) * M, cache
"""),
    ("the bank overwritten", "memory_update_forward", "M", "in place", """
def memory_update_forward(R, M, Win, bin, Wforget, bforget):
    M_next, cache = right(R, M.copy(), Win, bin, Wforget, bforget)
    M[...] = M_next
    return M_next, cache
"""),
    ("the bank detached", "memory_update_backward", "dM", "zero everywhere", """
def memory_update_backward(dM_next, cache):
    dR, dM, *others = right(dM_next, cache)
    return dR, None, *others
"""),
    ("dM past the forget gate", "memory_update_backward", "dM", "dM is wrong", """
def memory_update_backward(dM_next, cache):
    dR, _, *others = right(dM_next, cache)
    return dR, dM_next.copy(), *others
"""),
    ("dR through the gates only", "memory_update_backward", "dR", "left out", """
def memory_update_forward(R, M, Win, bin, Wforget, bforget):
    M_next, cache = right_forward(R, M, Win, bin, Wforget, bforget)
    return M_next, (cache, right_forward(R, 0 * M, Win, bin, Wforget, bforget)[0], R)


def memory_update_backward(dM_next, cache):
    cache, new, R = cache
    dR, *others = right(dM_next, cache)
    content = np.tanh(R)
    return dR - dM_next * new / content * (1 - content**2), *others
"""),
    ("biases not summed", "memory_update_backward", "dbin", "sum over axis 0 is missing", """
def memory_update_backward(dM_next, cache):
    gradients = list(right(dM_next, cache))
    alone = [right(dM_next * (np.arange(len(dM_next)) == b)[:, None, None], cache)
             for b in range(len(dM_next))]
    gradients[3], gradients[5] = (np.stack([one[i] for one in alone]) for i in (3, 5))
    return tuple(gradients)
"""),
    ("the two gates' gradients swapped", "memory_update_backward", "dWin",
     "gradient of dWforget", """
def memory_update_backward(dM_next, cache):
    dR, dM, *gates = right(dM_next, cache)
    return dR, dM, *gates[2:], *gates[:2]
"""),
]

A6 = [
    ("the embedding's scale forgotten", "segment_backward", 'grads["embed.W"]', "does the embedding come in times", """
def segment_backward(dlogits, dstates, cache):
    grads, dstates = right(dlogits, dstates, cache)
    return {**grads, "embed.W": grads["embed.W"] / cache["cfg"].D ** 0.5}, dstates
"""),
    ("the tied head's share forgotten", "segment_backward", 'grads["embed.W"]', "left out", """
def segment_backward(dlogits, dstates, cache):
    grads, dstates = right(dlogits, dstates, cache)
    if cache["cfg"].tied:
        grads["embed.W"] -= ops.linear_backward(dlogits, cache["head"])[1].T
    return grads, dstates
"""),
    ("the new states' gradient dropped", "segment_backward", "grads", "were dstates zero", """
def segment_backward(dlogits, dstates, cache):
    return right(dlogits, None, cache)
"""),
    ("the old states' gradient dropped", "segment_backward", "dstates.0.0", "zero everywhere, or left out", """
def segment_backward(dlogits, dstates, cache):
    grads, dstates = right(dlogits, dstates, cache)
    return grads, (None,) * len(dstates)
"""),
    ("states in the order of the walk", "segment_backward", "dstates.0.0", "gradient of dstates.1.0", """
def segment_backward(dlogits, dstates, cache):
    grads, dstates = right(dlogits, dstates, cache)
    return grads, (*dstates[-2::-1], None)
"""),
    ("the last norm left out", "segment_backward", 'grads["norm.g"]', "zero everywhere, or left out", """
def segment_backward(dlogits, dstates, cache):
    grads, dstates = right(dlogits, dstates, cache)
    grads.pop("norm.g")
    return grads, dstates
"""),
    ("no states to go on with", "segment_backward", "line", "raised", """
def segment_backward(dlogits, dstates, cache):
    return right(dlogits, tuple(d and (d[0] + 0,) for d in dstates), cache)
"""),
    ("states not handed on", "story_backward", 'grads["embed.W"]', "handed on from segment to segment", """
def story_backward(dlogits, cache):
    return right(dlogits, {**cache, "truncate": 1})
"""),
    ("truncate ignored", "story_backward", 'grads["embed.W"]', "only before the cut has a gradient", """
def story_backward(dlogits, cache):
    return right(dlogits, {**cache, "truncate": None})
"""),
    ("the cut one segment late", "story_backward", "grads", "wrong", """
def story_backward(dlogits, cache):
    return right(dlogits, {**cache, "truncate": cache["truncate"] and cache["truncate"] + 1})
"""),
    ("the last segment's share only", "story_backward", "grads", "wrong", """
def story_backward(dlogits, cache):
    last, S = cache["calls"][-1], len(cache["calls"])
    rows = last["ids"].shape[1] if last["last"] is None else last["last"]
    masked = dlogits * (np.arange(dlogits.shape[1]) >= dlogits.shape[1] - rows)[:, None]
    return right(masked, {**cache, "truncate": S - 1})
"""),
    ("a mean over the segments", "story_backward", "grads", "1/S: is it a mean over S", """
def story_backward(dlogits, cache):
    grads = right(dlogits, cache)
    grads.buffer /= len(cache["calls"])
    return grads
"""),
    ("recompute not known", "story_backward", "line", "TypeError", """
def story_backward(dlogits, cache):
    for segment in cache["segments"]:
        segment["head"]
    return right(dlogits, cache)
"""),
    ("a plain dict", "story_backward", "must be a Flat", "one buffer", """
def story_backward(dlogits, cache):
    return dict(right(dlogits, cache))
"""),
    ("clipped entry by entry", "clip", "grads", "their direction changes", """
def clip(grads, limit):
    norm = right(grads, 1e30)
    grads.buffer.clip(-limit, limit, out=grads.buffer)
    return norm
"""),
    ("scaled up, too", "clip", "grads", "0.5 times the limit", """
def clip(grads, limit):
    norm = np.sqrt(grads.buffer @ grads.buffer)
    grads.buffer *= limit / (norm + 1e-12)
    return norm
"""),
    ("the norm afterwards", "clip", "norm", "the norm afterwards", """
def clip(grads, limit):
    right(grads, limit)
    return right(grads, limit)
"""),
    ("the root forgotten", "clip", "norm is wrong", "says", """
def clip(grads, limit):
    return right(grads, limit) ** 2
"""),
    ("no bias correction", "AdamW.step", "update", "corrected for having started at zero", """
class AdamW(right):
    def step(self, params, grads, lr):
        b1, b2 = self.betas
        super().step(params, grads, 0.0)
        self.t = 10_000
        self.m, self.v, m, v = self.m, self.v, self.m.copy(), self.v.copy()
        params.buffer -= lr * m / (v**0.5 + self.eps)
        params.matrices *= 1 - lr * self.decay
"""),
    ("decay on vectors, too", "AdamW.step", "update", "moved by weight decay, which is for matrices only", """
class AdamW(right):
    def step(self, params, grads, lr):
        params.buffer[len(params.matrices):] *= 1 - lr * self.decay
        super().step(params, grads, lr)
"""),
    ("decay forgotten", "AdamW.step", "update", "weight decay is missing", """
class AdamW(right):
    def step(self, params, grads, lr):
        self.decay = 0.0
        super().step(params, grads, lr)
"""),
    ("betas swapped", "AdamW.step", "m is wrong", "times what it should be", """
class AdamW(right):
    def step(self, params, grads, lr):
        self.betas = sorted(self.betas)[::-1]
        super().step(params, grads, lr)
"""),
    ("steps not counted", "AdamW.step", "step 2", "update is wrong|factor", """
class AdamW(right):
    def step(self, params, grads, lr):
        self.t = 0
        super().step(params, grads, lr)
"""),
    ("up the gradient", "AdamW.step", "update", "sign (is )?flipped", """
class AdamW(right):
    def step(self, params, grads, lr):
        super().step(params, grads, -lr)
"""),
    ("grads used up", "AdamW.step", "grads", "in place", """
class AdamW(right):
    def step(self, params, grads, lr):
        super().step(params, grads, lr)
        grads.buffer[...] = 0
"""),
]

FIRST = tuple(WrongSolution(f"a{number}", *mistake)
              for number, mistakes in enumerate((A1, A2, A3, A4, A5, A6), 1) for mistake in mistakes)
EARLY, HELD_BACK, LATE = (tuple(WrongSolution(*slip) for slip in some)
                          for some in (slips.EARLY, slips.HELD_BACK, slips.LATE))
SECOND = tuple(WrongSolution(*slip, file="by_hand.py") for slip in slips.SECOND)
WRONG_SOLUTIONS = FIRST + EARLY + HELD_BACK + LATE + SECOND


def measure(some, *, seed=0, verbose=False, show=print):
    """Grade some wrong solutions and say of each what its feedback got right.  -> (right, misleading, not found)."""
    right, misleading, missed = 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for wrong in some:
            report = wrong.grade(Path(folder), seed=seed)
            own = report.feedback(wrong.function)
            found = (bool(own), any(map(wrong.names, own)), wrong.explained(report))
            misled = wrong.misled(report)
            right, misleading = right + all(found), misleading + bool(misled)
            missed += report.points == report.out_of
            marks = "  ".join(f"{name} {'yes' if yes else 'NO '}" for name, yes in zip(
                ("function", "argument", "symptom"), found, strict=True))
            show(f"{marks}  {'MISLEADS' if misled else '        '}  {report.points:>3} of {report.out_of:<3}  {wrong}")
            if verbose and not (all(found) and not misled):
                show("".join(f"    {line}\n" for line in dict.fromkeys(report.feedback())))
    show(f"{len(some)} mistakes: {right} right ({right / len(some):.0%}), {misleading} misleading, {missed} not found")
    return right, misleading, missed


def main(argv=None):
    """`python -m tutorials.assignments.wrong_solutions early`: the share of right feedback."""
    groups = {"first": FIRST, "early": EARLY, "held-back": HELD_BACK, "late": LATE,
              "second": SECOND, "all": WRONG_SOLUTIONS}
    parser = argparse.ArgumentParser(description=measure.__doc__)
    parser.add_argument("group", choices=groups)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-v", "--verbose", action="store_true", help="the lines of those that are not right")
    args = parser.parse_args(argv)
    right, misleading, missed = measure(groups[args.group], seed=args.seed, verbose=args.verbose)
    return 1 if missed or misleading or right < 0.95 * len(groups[args.group]) else 0


if __name__ == "__main__":
    sys.exit(main())
