"""LM2 on one page: a language model with a memory, from its stories to its accuracy, in NumPy alone.

    python tutorials/lm2_on_one_page.py [seed]

A story says who went where, hidden in filler, and then asks where somebody is. The model reads it in segments of T
words. Attention sees one segment only; what an earlier one said reaches it through a memory bank: N slots in each
block, which the words of a segment read and which are rewritten after it (Kang et al. 2025, arXiv 2502.06049; numbers
such as (1) are those of its equations). All gradients are written by hand: dX is the gradient of X and has its shape.

B stories, T words of a segment, N slots, D width, L blocks, H heads of width K, F feed-forward width, V words known,
A words of the answer (the place and [end]).
"""

import random
import sys
import time

import numpy as np

D, L, H, F, N, T, A = 32, 2, 2, 78, 16, 32, 2
K = D // H

# ------------------------------------------------------------------------------------------------------- 1. The stories

PEOPLE = "mary sandra john daniel".split()
PLACES = "kitchen bathroom bedroom garden office hallway".split()
WENT = ["went to", "moved to", "travelled to", "journeyed to", "went back to"]
NOUNS = "river wind moon mountain forest cloud rain fire lamp clock bridge ship".split()
VERBS = "follows hides remembers awaits watches calls covers meets".split()
MANNERS = "often slowly softly always sometimes again".split()
WORDS = [*PEOPLE, *PLACES, *NOUNS, *VERBS, *MANNERS, *"went moved travelled journeyed back to the where is [end]".split()]
V, NUMBER = len(WORDS), {word: i for i, word in enumerate(WORDS)}


def tell(rng, count):
    """So many facts and a question, each a list of words, and the answer."""
    facts, told, at = [], [], {}
    for _ in range(count):
        person = rng.choice(PEOPLE)
        at[person] = rng.choice([place for place in PLACES if place != at.get(person)])
        facts.append(f"{person} {rng.choice(WENT)} the {at[person]}".split())
        told.append(person)
    person = rng.choice(told[-5:])                       # the question is about one of the last five facts
    return facts, ["where", "is", person], at[person]


def row(rng, count, length=None, gap=0.0):
    """A story as length + 1 word numbers: facts among filler, question, answer, [end]; without filler if length is None.

    The first sentence of filler loses words at its head until the length is exact, so nothing needs padding. With
    probability `gap` a run of filler is set aside to stand between the last fact and the question.
    """
    facts, question, answer = tell(rng, count)
    missing = 0 if length is None else length - len(sum(facts, question)) - 1
    sentences = []
    while missing > 0:
        manner = [rng.choice(MANNERS)] if rng.random() < 0.5 else []
        noun, other = rng.sample(NOUNS, 2)
        sentences.append([*manner, "the", noun, rng.choice(VERBS), "the", other])
        missing -= len(sentences[-1])
    opening = sentences.pop()[-missing:] if sentences else []
    behind = rng.randint(0, len(sentences)) if rng.random() < gap else 0
    places = sorted(rng.randint(0, len(sentences) - behind) for _ in facts)
    while facts:                                         # from the last one, so that no place moves
        sentences.insert(places.pop(), facts.pop())
    return [NUMBER[word] for word in [*sum(sentences, opening), *question, answer, "[end]"]]


# --------------------------------------------------------------------------- 2. The parts: each forward, its backward


def linear_backward(dy, x, W):
    """y = x W.  x met W and W met every row of x: dx = dy W',  dW = x' dy."""
    return dy @ W.T, x.reshape(-1, x.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])


def sigmoid(x):
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def gate_forward(x, W, b):
    """y = sigmoid(x W + b), between 0 (shut) and 1 (open)."""
    y = sigmoid(x @ W + b)
    return y, (y, x, W)


def gate_backward(dy, cache):
    """A sigmoid has the slope y (1 - y); b was added to every row."""
    y, x, W = cache
    dz = dy * y * (1 - y)
    return *linear_backward(dz, x, W), dz.sum((0, 1))


def rmsnorm_forward(x, g):
    """y = g n,  n = x r,  r = 1 / sqrt(mean(x^2)): every row gets root mean square one, then a gain for each column."""
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
    return x * r * g, (x * r, r, g)


def rmsnorm_backward(dy, cache):
    """An x moves its own n directly, and through r all n of its row: this second share is the mean."""
    n, r, g = cache
    dn = dy * g
    return r * (dn - n * (dn * n).mean(-1, keepdims=True)), (dy * n).sum((0, 1))


def attend_forward(q, k, v, causal=False):
    """Each query gathers the values whose keys resemble it: y = P v,  P = softmax(q k' / sqrt(K)).

    q (B, H, T, K), k and v (B, H, U, K) -> y (B, H, T, K).  causal: no query sees a key that stands after it.
    """
    S = q @ k.swapaxes(2, 3) / K**0.5                                                    # (B, H, T, U)
    if causal:
        S += np.triu(np.full(S.shape[2:], -np.inf, S.dtype), 1)
    P = np.exp(S - S.max(-1, keepdims=True))
    P /= P.sum(-1, keepdims=True)
    return P @ v, (q, k, v, P)


def attend_backward(dy, cache):
    """In a softmax one share grows at the cost of all others: dS = P (dP - sum(dP P))."""
    q, k, v, P = cache
    dP = dy @ v.swapaxes(2, 3)
    dS = P * (dP - (dP * P).sum(-1, keepdims=True)) / K**0.5
    return dS @ k, dS.swapaxes(2, 3) @ q, P.swapaxes(2, 3) @ dy


def rope(x, positions, direction=1):
    """Turn pairs of columns by angles that grow with the position (-1: back). A pair is a complex number."""
    angles = np.multiply.outer(positions, 10_000 ** (-2 * np.arange(K // 2) / K))        # (T, K/2)
    pairs = np.ascontiguousarray(x).view(np.result_type(x, np.complex64))
    return (pairs * np.exp(direction * 1j * angles).astype(pairs.dtype)).view(x.dtype)


def split(x):
    """(B, T, D) -> (B, H, T, K): one head beside the other."""
    return x.reshape(*x.shape[:2], H, K).swapaxes(1, 2)


def join(x):
    """(B, H, T, K) -> (B, T, D)."""
    return x.swapaxes(1, 2).reshape(len(x), -1, D)


# ------------------------------------------------------------------------------------------------ 3. The model, forward


def read_forward(n, M, p):
    """The words n (B, T, D) read the bank M (B, N, D) through the output gate -> (B, T, D)."""
    Mn, norm = rmsnorm_forward(M, p["mem.g"])
    y, attend = attend_forward(split(n @ p["mem.Wq"]), split(Mn @ p["mem.Wk"]), split(Mn @ p["mem.Wv"]))
    E = join(y)                                                                          # (1)
    gout, gate = gate_forward(E, p["mem.Wout"], p["mem.bout"])                           # (2)
    return gout * E, (n, Mn, norm, attend, E, gout, gate)


def write_forward(k, v, M, p):
    """The slots attend to the segment's words, as one more word after its end would, and the bank is rewritten.

    A slot's query is made from an address that never changes: row s of the identity times sqrt(D) for slot s.
    """
    slots = split(D**0.5 * p["attn.Wqkv"][None, :N, :D])                                 # address Wq, (1, H, N, K)
    y, attend = attend_forward(rope(slots, k.shape[2]), k, v)
    a = join(y)
    R = a @ p["attn.Wo"]                                                                 # what was gathered, (B, N, D)
    gin, gate_in = gate_forward(R, p["mem.Win"], p["mem.bin"])                           # (4)
    gforget, gate_forget = gate_forward(R, p["mem.Wforget"], p["mem.bforget"])           # (5)
    content = np.tanh(R)
    return gin * content + gforget * M, (attend, a, gin, gate_in, gforget, gate_forget, content, M)   # (6)


def block_forward(x, M, p, last):
    """One block on one segment: x (B, T, D), M (B, N, D) -> y (B, T, D) and the next bank, None after the last one."""
    n, norm = rmsnorm_forward(x, p["attn.g"])
    q, k, v = (split(part) for part in np.split(n @ p["attn.Wqkv"], 3, axis=-1))
    q, k = rope(q, np.arange(x.shape[1])), rope(k, np.arange(x.shape[1]))
    y, attend = attend_forward(q, k, v, causal=True)
    a = join(y)
    gated, read = read_forward(n, M, p)
    x = x + a @ p["attn.Wo"] + gated                                                     # (3)
    M_next, write = (None, None) if last else write_forward(k, v, M, p)
    h, ff_norm = rmsnorm_forward(x, p["ff.g"])
    gate, up = np.split(h @ p["ff.Wgu"], 2, axis=-1)                                     # (B, T, F) both
    s = sigmoid(gate)
    y = x + (gate * s * up) @ p["ff.Wdown"]
    return y, M_next, (p, n, norm, attend, a, read, write, h, ff_norm, gate, up, s)


def story_forward(params, ids):
    """ids (B, any length) -> logits (B, A, V) at the last A words. The first segment is the one that may be shorter."""
    B, length = ids.shape
    banks = [np.broadcast_to(np.eye(N, D, dtype=params["embed.W"].dtype), (B, N, D))] * L
    segments = np.split(ids, range(length % T or T, length, T), axis=1)
    caches = []
    for s, words in enumerate(segments):
        x = params["embed.W"][words] * D**0.5
        for i in range(L):
            p = {name.split(".", 2)[2]: W for name, W in params.items() if name.startswith(f"blocks.{i}.")}
            x, banks[i], cache = block_forward(x, banks[i], p, last=s == len(segments) - 1)
            caches.append(cache)
    y, norm = rmsnorm_forward(x[:, -A:], params["norm.g"])
    return y @ params["head.W"], (params, segments, caches, y, norm)


# ----------------------------------------------------------------------------------------------- 4. The model, backward


def read_backward(dy, cache, p):
    """E has two shares: it passes the gate, and it opens the gate. The slots have two: they are keys and values."""
    n, Mn, norm, attend, E, gout, gate = cache
    dp = {}
    dE, dp["mem.Wout"], dp["mem.bout"] = gate_backward(dy * E, gate)
    dq, dk, dv = attend_backward(split(dE + dy * gout), attend)
    dn, dp["mem.Wq"] = linear_backward(join(dq), n, p["mem.Wq"])
    dMn_k, dp["mem.Wk"] = linear_backward(join(dk), Mn, p["mem.Wk"])
    dMn_v, dp["mem.Wv"] = linear_backward(join(dv), Mn, p["mem.Wv"])
    dM, dp["mem.g"] = rmsnorm_backward(dMn_k + dMn_v, norm)
    return dn, dM, dp


def write_backward(dM_next, cache, p):
    """R has three shares: it opens both gates and is the content. All stories share the slots' queries: a sum."""
    attend, a, gin, gate_in, gforget, gate_forget, content, M = cache
    dp = {"attn.Wqkv": np.zeros_like(p["attn.Wqkv"])}
    dR_in, dp["mem.Win"], dp["mem.bin"] = gate_backward(dM_next * content, gate_in)
    dR_forget, dp["mem.Wforget"], dp["mem.bforget"] = gate_backward(dM_next * M, gate_forget)
    dR = dR_in + dR_forget + dM_next * gin * (1 - content**2)
    da, dp["attn.Wo"] = linear_backward(dR, a, p["attn.Wo"])
    dq, dk, dv = attend_backward(split(da), attend)
    dslots = rope(dq.sum(0, keepdims=True), dk.shape[2], direction=-1)
    dp["attn.Wqkv"][:N, :D] = D**0.5 * join(dslots)[0]
    return dk, dv, dM_next * gforget, dp


def block_backward(dy, dM_next, cache):
    """The forward from its end. k, v and the bank have two shares where a bank was written: of the read, of the write."""
    p, n, norm, attend, a, read, write, h, ff_norm, gate, up, s = cache
    dp, dp_write = {}, {}
    dinside, dp["ff.Wdown"] = linear_backward(dy, gate * s * up, p["ff.Wdown"])
    dgate, dup = dinside * up * s * (1 + gate * (1 - s)), dinside * gate * s
    dh, dp["ff.Wgu"] = linear_backward(np.concatenate((dgate, dup), -1), h, p["ff.Wgu"])
    dx, dp["ff.g"] = rmsnorm_backward(dh, ff_norm)
    dx = dx + dy
    dn_read, dM, dp_read = read_backward(dx, read, p)
    da, dp["attn.Wo"] = linear_backward(dx, a, p["attn.Wo"])
    dq, dk, dv = attend_backward(split(da), attend)
    if write:
        dk_slots, dv_slots, dM_kept, dp_write = write_backward(dM_next, write, p)
        dk, dv, dM = dk + dk_slots, dv + dv_slots, dM + dM_kept
    dq, dk = (rope(d, np.arange(dy.shape[1]), direction=-1) for d in (dq, dk))
    dn, dp["attn.Wqkv"] = linear_backward(np.concatenate([join(d) for d in (dq, dk, dv)], -1), n, p["attn.Wqkv"])
    dx_norm, dp["attn.g"] = rmsnorm_backward(dn + dn_read, norm)
    dp |= dp_read
    for name, g in dp_write.items():                     # Wqkv and Wo serve the words and the slots
        dp[name] = dp.get(name, 0) + g
    return dx + dx_norm, dM, dp


def story_backward(dlogits, cache):
    """From the last segment to the first: what it did to its bank is what the segment before is told."""
    params, segments, caches, y, norm = cache
    grads, dbanks = {name: np.zeros_like(W) for name, W in params.items()}, [None] * L
    dy, grads["head.W"] = linear_backward(dlogits, y, params["head.W"])
    dy, grads["norm.g"] = rmsnorm_backward(dy, norm)
    for words in reversed(segments):
        dx = np.zeros((*words.shape, D), dy.dtype)       # only the end of the last segment met the loss directly
        if words is segments[-1]:
            dx[:, -A:] = dy
        for i in reversed(range(L)):
            dx, dbanks[i], dp = block_backward(dx, dbanks[i], caches.pop())
            for name, g in dp.items():
                grads[f"blocks.{i}.{name}"] += g
        onehot = np.eye(V, dtype=dx.dtype)[words]        # a lookup is a product with rows that are 1 at their word
        grads["embed.W"] += linear_backward(D**0.5 * dx, onehot, params["embed.W"])[1]
    return grads


def loss_and_gradients(params, rows):
    """The mean surprise at the answer's words, -log p, and its gradients: predicted minus what came."""
    logits, cache = story_forward(params, rows[:, :-1])
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)                                                        # (B, A, V)
    came = np.eye(V, dtype=p.dtype)[rows[:, -A:]]
    loss = -np.log((p * came).sum(-1)).mean()
    return loss, story_backward((p - came) / came[..., 0].size, cache)


# ------------------------------------------------------------------------------------- 5. The parameters and their steps


def initial_params(seed):
    """Random matrices, and gates that begin by reading the bank cautiously (bout) and forgetting slowly (bforget)."""
    squares = "attn.Wo mem.Wq mem.Wk mem.Wv mem.Wout mem.Win mem.Wforget".split()
    shapes = {name: (D, D) for name in squares} | {"attn.Wqkv": (D, 3 * D), "ff.Wgu": (D, 2 * F), "ff.Wdown": (F, D)}
    vectors = {"attn.g": 1, "mem.g": 1, "mem.bin": 0, "mem.bforget": 3, "mem.bout": -1, "ff.g": 1}
    rng = np.random.default_rng(seed)
    params = {"embed.W": rng.normal(0, D**-0.5, (V, D)), "norm.g": np.ones(D), "head.W": rng.normal(0, D**-0.5, (D, V))}
    for i in range(L):
        for name, shape in shapes.items():
            depth = 2 * L if name in ("attn.Wo", "ff.Wdown") else 1          # these two add to the residual stream
            params[f"blocks.{i}.{name}"] = rng.normal(0, (shape[0] * depth) ** -0.5, shape)
        params |= {f"blocks.{i}.{name}": np.full(D, value) for name, value in vectors.items()}
    return {name: W.astype(np.float32) for name, W in params.items()}


def adamw(params, grads, moments, step, rate):
    """One step against the gradients, in place: each entry moves by its mean gradient over its root mean square."""
    norm = sum((g * g).sum() for g in grads.values()) ** 0.5
    for name, W in params.items():
        g, (m, v) = grads[name] / max(norm, 1), moments[name]                # all gradients as one: at most norm 1
        m += 0.1 * (g - m)
        v += 0.02 * (g * g - v)
        if W.ndim == 2:
            W *= 1 - 0.01 * rate                                             # only matrices decay
        W -= rate * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.98**step)) + 1e-8)


# ------------------------------------------------------------------------------------------------------- 6. The training

# Name, facts of a story, words of a row, gap, rows of a batch, at most so many steps, mean loss that ends the stage.
STAGES = (("A", [2], [16], 0.0, 128, 1000, 0.02),
          ("A2", [2, 4], [T], 0.0, 64, 300, 0.05),
          ("B", [2, 4, 6, 8, 10], [2 * T, 3 * T, 4 * T], 0.7, 64, 1000, 0.0))


def train(seed, stages=STAGES):
    """The parameters after all stages, and the losses of all steps."""
    rng, params, losses = random.Random(seed), initial_params(seed), []
    moments = {name: np.zeros((2, *W.shape), W.dtype) for name, W in params.items()}
    for name, counts, lengths, gap, size, steps, enough in stages:
        first = len(losses)
        while len(losses) < first + steps and (len(losses) < first + 20 or np.mean(losses[-20:]) >= enough):
            rate = 6e-3 * min(1, (len(losses) + 1) / 100)
            if name == stages[-1][0]:
                rate *= 0.525 + 0.475 * np.cos(np.pi * (len(losses) - first) / steps)
            length = rng.choice(lengths)
            rows = np.array([row(rng, rng.choice(counts), length, gap) for _ in range(size)])
            loss, grads = loss_and_gradients(params, rows)
            losses.append(float(loss))
            adamw(params, grads, moments, len(losses), float(rate))
            if len(losses) % 100 == 0:
                print(f"stage {name:<2}  step {len(losses):>4}  loss {np.mean(losses[-20:]):.3f}  "
                      f"{time.process_time():4.0f} s", flush=True)
    return params, losses


# ----------------------------------------------------------------------------------------------------- 7. The evaluation


def accuracy(params, rng, segments, questions=500):
    """How often the answer and the end after it are both the likeliest; 0 segments are stories without filler."""
    right = 0
    for _ in range(questions):
        words = np.array([row(rng, rng.choice([2, 4, 6, 8, 10]), segments * T or None)])
        logits, _ = story_forward(params, words[:, :-1])
        right += (logits.argmax(-1) == words[:, -A:]).all()
    return right / questions


if __name__ == "__main__":
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    params, losses = train(seed)
    for segments in (0, 4, 8):
        print(f"{segments} segments: accuracy {accuracy(params, random.Random(seed + 1000), segments):.3f}")
    print(f"{len(losses)} steps, {time.process_time():.0f} s")
