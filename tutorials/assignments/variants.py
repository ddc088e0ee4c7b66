"""Variants of an assignment that no lesson and no file of the library solves: `a5:7` is a5 as the teacher's number 7
draws it.

A variant changes one line of a function's equation. The sheet and the stub say the new line, so the forward is no
secret. The backward is what students are to find, and it stands nowhere: what is right is taken from the forward by
complex steps, entry by entry on small arrays and along random directions on large ones. Of an optimizer the rule is
changed, and there is no backward.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np

from tutorials.assignments import plain

STEP = 1e-30                                             # of a complex step: nothing is subtracted, so nothing is lost


@dataclass(frozen=True)
class Variant:
    """One changed line.

    name: of the pair.  about: one line for the teacher.  sheet, stub, check: (old, new) in the texts that students get.
    forward: plain NumPy that also takes complex numbers, f(*inputs, **constants) -> output.
    """

    name: str
    about: str
    sheet: tuple[tuple[str, str], ...]
    stub: tuple[tuple[str, str], ...]
    forward: Callable
    check: tuple[tuple[str, str], ...] = ()

    def names(self):
        """What stands in the library's place, by its names there: the truth for the grader."""
        forward, backward = self.pair()
        return {f"{self.name}_forward": forward, f"{self.name}_backward": backward}

    def pair(self):
        """(forward, backward) as the library has them."""
        def forward(*inputs, **constants):
            return self.forward(*inputs, **constants), (inputs, constants)

        def backward(dy, cache):
            inputs, constants = cache
            return tuple(self.gradient(i, inputs, constants, dy) for i in range(len(inputs)))

        return forward, backward

    def gradient(self, i, inputs, constants, dy):
        """The gradient at one argument. Stories do not touch each other, so arrays with a story axis take one complex
        step per entry of a story, where the output has that axis, too."""
        x = inputs[i]
        wide = [np.asarray(a, "complex128") for a in inputs]
        gradient, stories = np.zeros(x.shape), x.ndim > 2 and np.ndim(dy) > 0
        for index in np.ndindex(x.shape[1:] if stories else x.shape):
            place = (slice(None), *index) if stories else index
            moved = wide[i].copy()
            moved[place] += 1j * STEP
            slopes = dy * self.forward(*wide[:i], moved, *wide[i + 1:], **constants).imag / STEP
            gradient[place] = slopes.reshape(len(slopes), -1).sum(1) if stories else slopes.sum()
        return gradient.astype(x.dtype)

    def slope(self, i, move, inputs, constants, dy):
        """The slope along a move of one argument, exact: one evaluation, however large the arrays are."""
        wide = [np.asarray(a, "complex128") for a in inputs]
        wide[i] = wide[i] + 1j * STEP * move
        return float((dy * self.forward(*wide, **constants).imag).sum() / STEP)


@dataclass(frozen=True)
class Rule(Variant):
    """Another rule of the optimizer.  forward: f(m, v, g, b1, b2, t, eps) -> m, v, what lr is multiplied by."""

    def names(self):
        rule = self.forward

        class AdamW(plain.AdamW):
            def step(self, params, grads, lr):
                self.t += 1
                m, v, way = rule(self.m, self.v, grads.buffer, *self.betas, self.t, self.eps)
                self.m[...], self.v[...] = m, v
                params.matrices[...] *= 1 - lr * self.decay
                params.buffer[...] -= lr * way

        return {"AdamW": AdamW}


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


# -------------------------------------------------------------------------------------------------------- a5: the gates

GATES_SHEET = """    gin     = sigmoid(R Win + bin)
    gforget = sigmoid(R Wforget + bforget)
    M'      = gin * tanh(R) + gforget * M
"""
GATES_STUB = "gin = sigmoid(R Win + bin),   gforget = sigmoid(R Wforget + bforget),   M' = gin * tanh(R) + gforget * M"
WAYS = "Six arguments, three sums, two products. Draw the arrows from each argument to M', and count: R has three ways "
REASON = """. Both gates see R, not the
    bank: gates that see the bank, too, as in an LSTM, forget sooner. The paper has no b; bforget > 0
    makes an untrained bank keep what it holds."""


def _gates(about, gin, gforget, total, forward):
    """A variant of the memory update: its three equations."""
    sheet = f"    gin     = {gin}\n    gforget = {gforget}\n    M'      = {total}\n"
    return Variant("memory_update", about, (
        ("**Memory update** (equations 4 to 6 of the LM2 paper, Kang et al. 2025, arXiv:2502.06049).",
         "**Memory update.** One line is not the paper's."),
        (GATES_SHEET, sheet),
        (f"{WAYS}there,\nall others one.", "Draw the arrows from each argument to M', and count the ways that each has "
                                           "there: they are\nnot those of lesson 11."),
        (" and at M, each in one product.", " and at M.")),
        ((GATES_STUB, f"gin = {gin},   gforget = {gforget}\n    M' = {total}"), (REASON, "."),
         ("        LM2, equations 4 to 6", "")), forward)


def _bank_is_asked(R, M, Win, bin, Wforget, bforget):
    return _sigmoid(R @ Win + bin) * np.tanh(R) + _sigmoid(M @ Wforget + bforget) * M


def _room_is_made(R, M, Win, bin, Wforget, bforget):
    gin = _sigmoid(R @ Win + bin)
    return gin * np.tanh(R) + (1 - gin) * _sigmoid(R @ Wforget + bforget) * M


def _news_is_asked(R, M, Win, bin, Wforget, bforget):
    return _sigmoid((R - M) @ Win + bin) * np.tanh(R) + _sigmoid(R @ Wforget + bforget) * M


GIN, GFORGET, TOTAL = "sigmoid(R Win + bin)", "sigmoid(R Wforget + bforget)", "gin * tanh(R) + gforget * M"
GATES = (
    _gates("the forget gate asks the bank", GIN, "sigmoid(M Wforget + bforget)", TOTAL, _bank_is_asked),
    _gates("what comes in makes room", GIN, GFORGET, "gin * tanh(R) + (1 - gin) * gforget * M", _room_is_made),
    _gates("the input gate asks what is new", "sigmoid((R - M) Win + bin)", GFORGET, TOTAL, _news_is_asked),
)

# ------------------------------------------------------------------------------------------------------ a5: the address

ADDRESS = "first N rows of the identity, times sqrt(D)"


def _address(about, sheet, rows):
    """A variant of the write attention: another address for each slot.  rows(N, D) -> (N, D)"""
    def forward(k, v, Wqkv, Wo, *, heads, slots, pad=None, start=None):
        (H, G), (B, T, _, K), D = heads, k.shape, Wqkv.shape[0]
        plain.check_shapes("write_attention", k=(k, f"B T {G} K"), v=(v, f"B T {G} K"), Wo=(Wo, f"{H * K} D"),
                           Wqkv=(Wqkv, f"D {(H + 2 * G) * K}"))
        asked = rows(slots, D).astype(k.dtype) @ Wqkv[:, :H * K]
        q, _ = plain.rope_forward(asked.reshape(1, slots, H, K), start=T if start is None else start, step=0)
        y, _ = plain.attend_forward(np.repeat(q, B, axis=0), k, v, pad=pad)
        return y.reshape(B, slots, H * K) @ Wo

    return Variant("write_attention", about, (
        (f"address = {ADDRESS}", f"address = {sheet}"),
        ("Which rows of `Wq` does the product pick? No product is needed.",
         "Which rows of `Wq` does the product pick, and with which sign or weight? No product is needed.")),
        ((f",   address = {ADDRESS}", f"\n    address = {sheet}"),
         ("    address Wq is just sqrt(D) times the first N rows of Wq, the same for every story, so it is computed "
          "once for the\n    batch. start", "    The address is the same for every story.\n    start")), forward)


def _signs(N):
    return (-1.0) ** np.arange(N)[:, None]


ADDRESSES = (
    _address("slots at the last rows", "last N rows of the identity, times sqrt(D)",
             lambda N, D: D**0.5 * np.eye(D)[-N:]),
    _address("every second slot asks the opposite", "first N rows of the identity, row s times (-1)^s sqrt(D)",
             lambda N, D: D**0.5 * _signs(N) * np.eye(N, D)),
    _address("two neighbours each",
             "rows s and s+1 of the identity (row D is row 0), added up, times sqrt(D/2), for s < N",
             lambda N, D: (D / 2) ** 0.5 * (np.eye(N, D) + np.roll(np.eye(N, D), 1, axis=1))),
)

# -------------------------------------------------------------------------------------------------- a4: the output gate

ASKS = "sigmoid(Emem Wout + bout)"


def _output_gate(about, asked, ask):
    """A variant of the output gate: what it is asked.  ask(x, a, Emem) -> (B, T, D)"""
    def forward(x, a, Emem, Wout, bout):
        plain.check_shapes("output_gate", x=(x, "B T D"), a=(a, "B T D"), Emem=(Emem, "B T D"), Wout=(Wout, "D D"),
                           bout=(bout, "D"))
        return x + a + _sigmoid(ask(x, a, Emem) @ Wout + bout) * Emem

    gate = f"sigmoid({asked} Wout + bout)"
    return Variant("output_gate", about, (
        ("**Output gate** (equations 2 and 3). What was read opens its own gate, and goes into the residual stream:",
         "**Output gate.** What was read passes a gate, which is not the paper's, into the residual stream:"),
        (ASKS, gate),
        ("`Emem` is multiplied by the gate, and it makes the gate. Take",
         "`Emem` is multiplied by the gate, and it makes the gate, but not alone: who else does?\nTake")), (
        (ASKS, gate), ("                                 LM2, equations 2 and 3", ""),
        (" Equation 3 is printed with the bank where Emem must\n    stand. The gate sees what was read, not the "
         "token that reads.", "")), forward)


OUTPUT_GATES = (
    _output_gate("the gate asks the attention, too", "(Emem + a)", lambda x, a, Emem: Emem + a),
    _output_gate("the gate asks whether both agree", "(Emem * x)", lambda x, a, Emem: Emem * x),
    _output_gate("the gate asks what is new", "(Emem - x)", lambda x, a, Emem: Emem - x),
)

# ------------------------------------------------------------------------------------------------ a2: loss and norm

LOSS_SHEET = "    loss = - sum_r w_r log p_r[target_r] / sum_r w_r                   one number\n"
LOSS_STUB = "    loss = -sum_r w_r log p_r[target_r] / total,   p = softmax(logits) over the last axis, V"
LOSS_CHECK = "cross_entropy_forward of equal logits is ln V"
ONE_LINE = "Both cases fit in one line."
IN_YOUR_HEAD = "Over V, the gradient at a place must add up to zero: probabilities always add up to one. At a place"


def _loss(about, loss, stub, of_a_place, hint, check, more=()):
    """A variant of the cross-entropy.  of_a_place(logits, lse, target's logit) -> what the weights' mean is taken of"""
    def forward(logits, *, targets, weights, total=None):
        plain.check_shapes("cross_entropy", logits=(logits, "... V"))
        if not logits.shape[:-1] == targets.shape == weights.shape:
            raise ValueError("cross_entropy: targets and weights have not the shape of the places")
        top = logits.real.max(-1, keepdims=True)
        lse = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
        picked = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
        return (weights * of_a_place(logits, lse, picked)).sum() / (weights.sum() if total is None else total)

    return Variant("cross_entropy", about, (
        (LOSS_SHEET, f"    loss = {loss}\n"), ("**Cross-entropy.** ", "**A loss**, which is not the lessons'.\n"),
        (ONE_LINE, hint), *more), ((LOSS_STUB, f"    loss = {stub}"),),
        forward, check)


LOSSES = (
    _loss("a tenth of the target is spread over all tokens",
          "- sum_r w_r (0.9 log p_r[target_r] + 0.1 mean_v log p_r[v]) / sum_r w_r",
          "-sum_r w_r (0.9 log p_r[target_r] + 0.1 mean_v log p_r[v]) / total,   p = softmax(logits) over V",
          lambda z, lse, picked: lse - 0.9 * picked - 0.1 * z.mean(-1), "Multiply it by 0.9. Then add the "
          "gradient of `-0.1 mean_v log p_v`; every `j` has a share of it.",
          (("weights=np.array([2.0]))[0], 1000.0)", "weights=np.array([2.0]))[0], 950.0)"),)),
    _loss("a price on the size of the logits",
          "sum_r w_r (z_r^2 / 100 - log p_r[target_r]) / sum_r w_r        z_r = log sum_v e^(logits_r[v])",
          "sum_r w_r (z_r^2 / 100 - log p_r[target_r]) / total,   p = softmax(logits) over the last axis, V\n"
          "    z_r = log sum_v e^(logits_r[v])",
          lambda z, lse, picked: lse**2 / 100 + lse - picked, "Then differentiate the price, `z_r^2 / 100`.",
          ((f'{LOSS_CHECK}"', 'cross_entropy_forward of equal logits is ln V + (ln V)^2 / 100"'),
           ("weights=weights)[0], np.log(5))", "weights=weights)[0],\n             np.log(5) + np.log(5)**2 / 100)"),
           ("weights=np.array([2.0]))[0], 1000.0)", "weights=np.array([2.0]))[0], 11000.0)")),
          ((IN_YOUR_HEAD, "Over V, the gradient at a place adds up to what the price alone gives. At a place"),)),
    _loss("what is known counts less",
          "- sum_r w_r (2 - p_r[target_r]) log p_r[target_r] / sum_r w_r",
          "-sum_r w_r (2 - p_r[target_r]) log p_r[target_r] / total,   p = softmax(logits) over V",
          lambda z, lse, picked: (2 - np.exp(picked - lse)) * (lse - picked), "Then use the product rule.",
          ((f'{LOSS_CHECK}"', 'cross_entropy_forward of equal logits is 9/5 ln V"'),
           ("weights=weights)[0], np.log(5))", "weights=weights)[0],\n             1.8 * np.log(5))"),
           ("weights=np.array([2.0]))[0], 1000.0)", "weights=np.array([2.0]))[0], 2000.0)"))),
)

NORM_SHEET = "    r = 1 / sqrt(mean(x^2) + eps)       n = x r       y = g n          the mean runs over the last axis\n"
NORM_STUB = "    y = g * n,   n = x * r,   r = 1 / sqrt(mean(x^2) + eps)          means run over the last axis, D"
NORM_ABOUT = "Scale each row of x to root mean square one, then by the learned gain g (Zhang & Sennrich 2019, eq. 4)."
TWO_WAYS = ("`x_j` moves `n_j` directly, by `r`. It also moves `r`, and `r` stands in every `n_i` of the row. What is "
            "`dr/dx_j`?\nWrite it with `n` and `r` alone; two of the factors then meet again.")


def _norm(about, r, n, y, normed, check, hint=TWO_WAYS,
          first="Scale each row of x, then multiply it by the learned gain g"):
    """A variant of the norm.  normed(x, g, eps) -> y"""
    def forward(x, g, *, eps=1e-5):
        plain.check_shapes("rmsnorm", x=(x, "... D"), g=(g, "D"))
        return normed(x, g, eps)

    return Variant("rmsnorm", about, (
        (NORM_SHEET, f"    r = {r}       n = {n}       y = {y}\n\nAll means run over the last axis.\n"),
        ("**RMSNorm.** ", "**A norm**, which is not the lessons', called `rmsnorm` all the same.\n"),
        *(((TWO_WAYS, hint),) if hint != TWO_WAYS else ())),
        ((NORM_STUB, f"    y = {y},   n = {n},   r = {r}          means run over the last axis, D"),
         (NORM_ABOUT, f"{first}.")),
        forward, (("[[0.2, 14.0]]", check),))


def _root_mean_square(x, eps):
    return 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def _mean_is_mixed_in(x, g, eps):
    n = x * _root_mean_square(x, eps)
    return g * n + (1 - g) * n.mean(-1, keepdims=True)


NORMS = (
    _norm("the fourth power in the place of the square", "1 / (mean(x^4) + eps)^(1/4)", "x r", "g n",
          lambda x, g, eps: g * x * ((x * x * x * x).mean(-1, keepdims=True) + eps) ** -0.25,
          "np.array([[1.0, 70.0]]) / 1201**0.25"),
    _norm("half of the mean is taken off", "1 / sqrt(mean(x^2) + eps)", "(x - mean(x)/2) r", "g n",
          lambda x, g, eps: g * (x - x.mean(-1, keepdims=True) / 2) * _root_mean_square(x, eps), "[[-0.2, 10.0]]",
          "`x_j` moves `n_j` directly, by `r`. It also moves `mean(x)` and `r`, and both stand in every `n_i` of the "
          "row.\nWhat is `dr/dx_j`?", "Take half of its mean off each row of x, scale the row, then multiply it by the "
          "learned gain g"),
    _norm("what the gain leaves is the row's mean", "1 / sqrt(mean(x^2) + eps)", "x r", "g n + (1 - g) mean(n)",
          _mean_is_mixed_in, "[[0.2, 6.8]]", "`x_j` moves `n_j` directly, by `r`. It also moves `r`, and `r` stands in "
          "every `n_i` of the row. And `n_j`\nstands in every `y_i`: begin with the gradient at `n`.",
          "Scale each row of x, then mix it with its mean by the learned gain g"),
)

# ------------------------------------------------------------------------------------------------------ a3: attention

SCORES = "    S = q k' / sqrt(K)        P = softmax(S)        y = P v\n"
SCORES_STUB = ("    y = P v,   P = softmax(q k' / sqrt(K))                              query head h uses key head "
               "h // (H/G)")
CITED = " (Vaswani et al. 2017, eq. 1; Ainslie et al. 2023)."
NO_SOFTMAX = (
    ("Add minus infinity to the scores of what may not be seen, before the softmax. Draw",
     "What may not be seen has A = 0. Draw"),
    ("attend_backward: softmax", "attend_backward: the shares"),
    ("`dP_u/dS_v = P_u (1[u = v] - P_v)`", "`dP_u/dA_v = (1[u = v] - P_u) / sum A`"),
    ("What is P where the score was minus infinity?", "What is P where A was zero?"),
    ("its softmax has something to add up", "its shares have something to add up"),
    ("Scores of a\nthousand must not overflow.", "Large q and k must not overflow."))


def _attention(about, sheet, stub, shares, more=()):
    """A variant of attention.  shares(q, k, hidden) -> (B, H, T, U), which are then divided by their sum"""
    def forward(q, k, v, *, causal=False, pad=None):
        plain.check_shapes("attend", q=(q, "B T H K"), k=(k, "B U G K"), v=(v, "B U G K"), pad=(pad, "B"))
        (B, T, H, _), (U, G) = q.shape, k.shape[1:3]
        place = np.arange(U)
        own = place[U - T:, None]
        hidden = np.zeros((B, T, U), bool) | (place > own if causal else False)
        if pad is not None:
            hidden |= (place < pad[:, None, None]) & ((place != own) if causal else True)
        A = np.where(hidden[:, None], 0, shares(q, np.repeat(k, H // G, axis=2), hidden[:, None]))
        P = A / A.sum(-1, keepdims=True)
        return np.einsum("bhtu,buhk->bthk", P, np.repeat(v, H // G, axis=2))

    return Variant("attend", about, (
        (SCORES, f"    {sheet}\n"), ("**Attention.** ", "**Attention**, but not that of the lessons.\n"), *more),
        ((SCORES_STUB, f"    y = P v,   {stub}          head h uses key head h // (H/G)"), (CITED, ".")), forward)


def _products(q, k):
    return np.einsum("bthk,buhk->bhtu", q, k)


def _squares(q, k):
    """|q - k|^2 of every query and key."""
    return ((q[:, :, None] - k[:, None]) ** 2).sum(-1).transpose(0, 3, 1, 2)


def _exponentials(scores):
    """The parts of a softmax.  scores(q, k) -> (B, H, T, U)"""
    def parts(q, k, hidden):
        S = scores(q, k)
        return np.exp(S - np.where(hidden, -np.inf, S.real).max(-1, keepdims=True))

    return parts


ATTENTIONS = (
    _attention("scores are held between -4 and 4",
               "S = 4 tanh(q k' / (4 sqrt(K)))        P = softmax(S)        y = P v",
               "P = softmax(4 tanh(q k' / (4 sqrt(K))))",
               _exponentials(lambda q, k: 4 * np.tanh(_products(q, k) / (4 * q.shape[-1] ** 0.5)))),
    _attention("long keys are not preferred",
               "S = (q k' - |k|^2 / 2) / sqrt(K)        P = softmax(S)        y = P v        |k|^2 = sum of k_i^2",
               "P = softmax((q k' - |k|^2 / 2) / sqrt(K))",
               _exponentials(lambda q, k: (_products(q, k) - (k * k).sum(-1).transpose(0, 2, 1)[:, :, None] / 2)
                             / q.shape[-1] ** 0.5)),
    _attention("shares fall with the distance, without a softmax",
               "A = 1 / (1 + |q - k|^2 / sqrt(K))        P = A / sum A        y = P v        |q - k|^2 = sum of "
               "(q_i - k_i)^2",
               "P = A / sum A,   A = 1 / (1 + |q - k|^2 / sqrt(K))",
               lambda q, k, hidden: 1 / (1 + _squares(q, k) / q.shape[-1] ** 0.5), NO_SOFTMAX),
)

# -------------------------------------------------------------------------------------------------- a6: the optimizer

STEP_STUB = """    m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
    w = (1 - lr decay) w - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
"""
FIRST_STEP = ("After one step m is (1 - b1) g and v is (1 - b2) g^2. Both started at zero and are too small. Divide by "
              "what they lack:\nthe first step then has the length lr, whatever the gradient's size.")


def _optimizer(about, moments, step, rule, first, decayed):
    """A variant of AdamW's step.  first, decayed: what the check expects of one step without and with decay"""
    return Rule("AdamW", about, (
        ("The equations stand in the docstring of the class.",
         "The equations\nstand in the docstring of the class; they are not those of lesson 13."),
        (FIRST_STEP, "Both moments started at zero and are too small: that is what the divisions by 1 - b1^t and "
                     "1 - b2^t mend.")),
        ((STEP_STUB, f"    {moments}\n    w = (1 - lr decay) w - lr {step}\n"),
         ("Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), on",
          "A step like Adam's, with decoupled weight decay, on")), rule,
        (("the first one goes lr against the sign", "the first one"), ("after_a_step(0), [0.9, 1.1, 0.9]",
                                                                    f"after_a_step(0), {first}"),
         ("after_a_step(0.5), [0.85, 1.05, 0.9]", f"after_a_step(0.5), {decayed}")))


def _looks_ahead(m, v, g, b1, b2, t, eps):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    return m, v, (b1 * m + (1 - b1) * g) / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


def _trusts_what_it_expected(m, v, g, b1, b2, t, eps):
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * (g - m) ** 2
    return m, v, m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


def _takes_sizes(m, v, g, b1, b2, t, eps):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * abs(g)
    return m, v, m / (1 - b1**t) / (v / (1 - b2**t) + eps)


M, V, WAY = "m = b1 m + (1 - b1) g", "v = b2 v + (1 - b2) g^2", "m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)"
OPTIMIZERS = (
    _optimizer("the step looks one gradient ahead", f"{M},   {V},   n = b1 m + (1 - b1) g", f"n{WAY[1:]}", _looks_ahead,
               "[0.81, 1.19, 0.81]", "[0.76, 1.14, 0.81]"),
    _optimizer("large steps where the gradient is as expected", f"{M},   v = b2 v + (1 - b2) (g - m)^2, with the new m",
               WAY, _trusts_what_it_expected, "[8 / 9, 10 / 9, 8 / 9]", "[0.95 - 1 / 9, 0.95 + 1 / 9, 8 / 9]"),
    _optimizer("sizes in the place of squares", f"{M},   v = b2 v + (1 - b2) |g|",
               "m / (1 - b1^t) / (v / (1 - b2^t) + eps)", _takes_sizes, "[0.9, 1.1, 0.9]", "[0.85, 1.05, 0.9]"),
)

CHOICES = {"a2": (LOSSES, NORMS), "a3": (ATTENTIONS,), "a4": (OUTPUT_GATES,), "a5": (ADDRESSES, GATES),
           "a6": (OPTIMIZERS,)}


def draw(assignment, seed):
    """An assignment with one variant of each kind that it has, as a number draws them."""
    rng = np.random.default_rng([zlib.crc32(assignment.name.encode()), seed])
    chosen = tuple(kind[int(rng.integers(len(kind)))] for kind in CHOICES[assignment.name])
    return replace(assignment, variants=chosen)


def library(truth, assignment):
    """The library that knows what is right: `truth`, with the variants' pairs in their places."""
    if not assignment.variants:
        return truth
    files = {name.split(".")[1]: name.split(".")[0] for name in assignment.functions}
    changed: dict[str, SimpleNamespace] = {}
    for variant in assignment.variants:
        for name, thing in variant.names().items():
            space = changed.setdefault(files[name], SimpleNamespace(**vars(truth[files[name]])))
            setattr(space, name, thing)
    found = type(truth)(truth)
    found.update(changed)
    return found


class Assignments(dict):
    """The assignments by name; "a5:7" is a5 in the variant that 7 draws."""

    def __missing__(self, name):
        base, _, seed = name.partition(":")
        if base not in CHOICES or not seed.isdecimal():
            raise KeyError(name)
        return draw(self[base], int(seed))

    def __contains__(self, name):
        try:
            return bool(self[name])
        except (KeyError, AttributeError):
            return False
