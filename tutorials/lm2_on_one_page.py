"""LM2 on one page: a language model with a memory, from its stories to its accuracy, in NumPy alone.

    python tutorials/lm2_on_one_page.py [seed]

A story says who went where, among filler, and asks where somebody is. The model reads it in segments of T words. The
words of a segment attend to each other. What earlier segments said they find only in a memory bank: N slots in each
block, read by the words and rewritten after each segment (Kang et al. 2025, arXiv 2502.06049; a number such as (1) is
that of an equation there). All gradients are written by hand; dX is the gradient of X. B stories, D width, L blocks,
H heads of width K, F feed-forward width, V words in the vocabulary, A words to predict (the answer and [end]).
"""

import random
import sys
import time

import numpy as np

D, L, H, K, F, N, T, A = 32, 2, 2, 16, 78, 16, 32, 2

# ------------------------------------------------------------------------------------------------------ 1. The stories

PEOPLE = ["mary", "sandra", "john", "daniel"]
PLACES = ["kitchen", "bathroom", "bedroom", "garden", "office", "hallway"]
WENT = ["went to", "moved to", "travelled to", "journeyed to", "went back to"]
NOUNS = ["river", "wind", "moon", "mountain", "forest", "cloud", "rain", "fire", "lamp", "clock", "bridge", "ship"]
VERBS = ["follows", "hides", "remembers", "awaits", "watches", "calls", "covers", "meets"]
RESTS = ["", "again", "softly", "the bridge", "the old ship", "the cold lamp", "near the ship", "the bright clock"]
WORDS = sorted({*" ".join([*PEOPLE, *PLACES, *WENT, *NOUNS, *VERBS, *RESTS, "where is the [pad] [end]"]).split()})
V, NUMBER = len(WORDS), {word: i for i, word in enumerate(WORDS)}

def row(rng, count, length=None, gap=0.0):
    """A story with `count` facts as length + 1 word numbers. length None: no filler, but padding to whole segments."""
    pick, facts, at = rng.choice, [], {}
    people = [pick(PEOPLE) for _ in range(count)]
    for person in people:
        at[person] = pick([place for place in PLACES if place != at.get(person)])
        facts.append(f"{person} {pick(WENT)} the {at[person]}".split())
    asked = pick(people[-5:])                            # the question is about one of the last five facts
    ending = ["where", "is", asked, at[asked], "[end]"]
    needed = len(sum(facts, ending)) - 1                 # the model reads all but [end]
    opening, filler, missing = ["[pad]"] * (-needed % T), [], (length or needed) - needed
    while missing > 0:
        filler.append(f"the {pick(NOUNS)} {pick(VERBS)} {pick(RESTS)}".split())
        missing -= len(filler[-1])
    if filler:                                           # cut one sentence at its head, and the length is exact
        opening = filler.pop()[-missing:]
    behind = rng.randint(0, len(filler)) if rng.random() < gap else 0        # sentences kept behind the last fact
    places = sorted(rng.randint(0, len(filler) - behind) for _ in facts)
    while facts:                                         # the last fact first, so that no other's place moves
        filler.insert(places.pop(), facts.pop())
    return [NUMBER[word] for word in sum(filler, opening) + ending]

# ------------------------------------------------------------------- 2. The parts of the model: forward and backward

def linear_backward(dy, x, W):
    """y = x W: W takes x to y, so W' takes dy to dx; and every row of x met W, so dW sums over all rows."""
    return dy @ W.T, x.reshape(-1, x.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])

def sigmoid(x):
    return 0.5 + 0.5 * np.tanh(0.5 * x)

def gate_forward(x, W, b):
    """y = sigmoid(x W + b), between 0 (shut) and 1 (open)."""
    y = sigmoid(x @ W + b)
    return y, (y, x, W)

def gate_backward(dy, cache):
    """The slope of a sigmoid is y (1 - y). b was added to every row, so its gradient sums over the rows."""
    y, x, W = cache
    dz = dy * y * (1 - y)
    return *linear_backward(dz, x, W), dz.sum((0, 1))

def rmsnorm_forward(x, g):
    """y = g n,  n = x r,  r = 1 / sqrt(mean(x^2)): every row gets root mean square one, then each column a gain."""
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
    return x * r * g, (x * r, r, g)

def rmsnorm_backward(dy, cache):
    """An entry of x moves its own entry of n directly, and all entries of the row through r: that is the mean."""
    n, r, g = cache
    dn = dy * g
    return r * (dn - n * (dn * n).mean(-1, keepdims=True)), (dy * n).sum((0, 1))

def attend_forward(q, k, v, hidden=False):
    """Each query (B, T, D) gathers the values of the keys (B, U, D) like it: y = P v,  P = softmax(q k' / sqrt(K))."""
    q, k, v = split(q), split(k), split(v)
    S = np.where(hidden, -np.inf, q @ k.swapaxes(2, 3) / K**0.5)                         # -inf: not seen, (B, H, T, U)
    P = np.exp(S - S.max(-1, keepdims=True))
    P /= P.sum(-1, keepdims=True)
    return join(P @ v), (q, k, v, P)

def attend_backward(dy, cache):
    """A row of P always sums to one, so a key gains only if it is worth more than the row's mean: dP - sum(dP P)."""
    (q, k, v, P), dy = cache, split(dy)
    dP = dy @ v.swapaxes(2, 3)
    dS = P * (dP - (dP * P).sum(-1, keepdims=True)) / K**0.5
    return join(dS @ k), join(dS.swapaxes(2, 3) @ q), join(P.swapaxes(2, 3) @ dy)

def split(x):                                            # (B, T, D) -> (B, H, T, K), a head beside the other
    return x.reshape(*x.shape[:2], H, K).swapaxes(1, 2)

def join(x):                                             # (B, H, T, K) -> (B, T, D)
    return x.swapaxes(1, 2).reshape(len(x), -1, D)

def rope(x, positions, direction=1):
    """Turn pairs of columns, each a complex number, by angles that grow with the position. Backward turns by -1."""
    angles = np.multiply.outer(positions, 10_000 ** (-2 * np.arange(K // 2) / K))        # (T, K/2), for each head
    pairs = x.view(np.result_type(x, np.complex64))                                      # (B, T, D/2)
    return (pairs * np.tile(np.exp(direction * 1j * angles), H).astype(pairs.dtype)).view(x.dtype)

# ----------------------------------------------------------------------------------------------- 3. The model, forward

def read_forward(n, M, p):
    """The words n (B, T, D) read the bank M (B, N, D), and a gate decides how much of it they take -> (B, T, D)."""
    Mn, norm = rmsnorm_forward(M, p["mem.g"])
    E, attend = attend_forward(n @ p["mem.Wq"], Mn @ p["mem.Wk"], Mn @ p["mem.Wv"])                              # (1)
    gout, gate = gate_forward(E, p["mem.Wout"], p["mem.bout"])                                                   # (2)
    return gout * E, (n, Mn, norm, attend, E, gout, gate)

def write_forward(k, v, M, pad, p):
    """The slots attend to the words, as a word after the last one would; then two gates rewrite the bank M."""
    # The address of slot s is row s of the identity times sqrt(D), in every story: times Wq, it is a row of Wq.
    slots = rope(D**0.5 * p["attn.Wqkv"][None, :N, :D], k.shape[1])                      # (1, N, D)
    a, attend = attend_forward(slots, k, v, pad[:, None, None])
    R = a @ p["attn.Wo"]                                                                 # (B, N, D)
    gin, gate_in = gate_forward(R, p["mem.Win"], p["mem.bin"])                                                   # (4)
    gforget, gate_forget = gate_forward(R, p["mem.Wforget"], p["mem.bforget"])                                   # (5)
    content = np.tanh(R)
    return gin * content + gforget * M, (M, attend, a, gin, gate_in, gforget, gate_forget, content)              # (6)

def block_forward(x, M, pad, p, last):
    """A segment x (B, T, D), its padding (B, T), the bank M (B, N, D) -> y (B, T, D), next bank (None if the last)."""
    n, norm = rmsnorm_forward(x, p["attn.g"])
    q, k, v = np.split(n @ p["attn.Wqkv"], 3, axis=-1)                                   # (B, T, D) each
    places = np.arange(x.shape[1])
    q, k = rope(q, places), rope(k, places)
    # A word sees itself and the words before it, but no padding: (query, key) are the last two axes.
    hidden = (places > places[:, None]) | pad[:, None, None] & (places != places[:, None])           # (B, 1, T, T)
    a, attend = attend_forward(q, k, v, hidden)
    gated, read = read_forward(n, M, p)
    x = x + a @ p["attn.Wo"] + gated                                                                             # (3)
    M_next, write = (None, None) if last else write_forward(k, v, M, pad, p)
    h, ff_norm = rmsnorm_forward(x, p["ff.g"])
    gate, up = np.split(h @ p["ff.Wgu"], 2, axis=-1)                                     # (B, T, F) each
    s = sigmoid(gate)
    y = x + (gate * s * up) @ p["ff.Wdown"]
    return y, M_next, (p, n, norm, attend, a, read, write, h, ff_norm, gate, up, s)

def story_forward(params, ids):
    """ids (B, S T), with less than T words of padding -> logits (B, A, V) of the last A words."""
    segments = np.split(ids, ids.shape[1] // T, axis=1)                                  # S of them, (B, T) each
    caches, banks = [], [np.broadcast_to(np.eye(N, D, dtype=params["head.W"].dtype), (len(ids), N, D))] * L
    for words in segments:
        x = params["embed.W"][words] * D**0.5
        for i in range(L):
            p = {name.split(".", 2)[2]: W for name, W in params.items() if name.startswith(f"blocks.{i}.")}
            x, banks[i], cache = block_forward(x, banks[i], words == NUMBER["[pad]"], p, last=words is segments[-1])
            caches.append(cache)
    y, norm = rmsnorm_forward(x[:, -A:], params["norm.g"])
    return y @ params["head.W"], (params, segments, caches, y, norm)

# ---------------------------------------------------------------------------------------------- 4. The model, backward

def read_backward(dy, cache, p):
    """E has two shares: it passes the gate, and it opens it. So have the slots: they are keys, and they are values."""
    n, Mn, norm, attend, E, gout, gate = cache
    dp = {}
    dE, dp["mem.Wout"], dp["mem.bout"] = gate_backward(dy * E, gate)
    dq, dk, dv = attend_backward(dE + dy * gout, attend)
    dn, dp["mem.Wq"] = linear_backward(dq, n, p["mem.Wq"])
    dMn_k, dp["mem.Wk"] = linear_backward(dk, Mn, p["mem.Wk"])
    dMn_v, dp["mem.Wv"] = linear_backward(dv, Mn, p["mem.Wv"])
    dM, dp["mem.g"] = rmsnorm_backward(dMn_k + dMn_v, norm)
    return dn, dM, dp

def write_backward(dM_next, cache, p):
    """R has three shares: it opens two gates and is the content. All stories had the same slots, so dq sums over B."""
    M, attend, a, gin, gate_in, gforget, gate_forget, content = cache
    dp = {"attn.Wqkv": np.zeros_like(p["attn.Wqkv"])}
    dR_in, dp["mem.Win"], dp["mem.bin"] = gate_backward(dM_next * content, gate_in)
    dR_forget, dp["mem.Wforget"], dp["mem.bforget"] = gate_backward(dM_next * M, gate_forget)
    dR = dR_in + dR_forget + dM_next * gin * (1 - content**2)
    da, dp["attn.Wo"] = linear_backward(dR, a, p["attn.Wo"])
    dq, dk, dv = attend_backward(da, attend)
    dp["attn.Wqkv"][:N, :D] = D**0.5 * rope(dq.sum(0), dk.shape[1], direction=-1)
    return dk, dv, dM_next * gforget, dp

def block_backward(dy, dM_next, cache):
    """The forward from its end. Where a bank was written, k, v and M have a second share, from the write."""
    p, n, norm, attend, a, read, write, h, ff_norm, gate, up, s = cache
    dp, dp_write = {}, {}
    dinside, dp["ff.Wdown"] = linear_backward(dy, gate * s * up, p["ff.Wdown"])
    dgate, dup = dinside * up * s * (1 + gate * (1 - s)), dinside * gate * s
    dh, dp["ff.Wgu"] = linear_backward(np.concatenate((dgate, dup), -1), h, p["ff.Wgu"])
    dx, dp["ff.g"] = rmsnorm_backward(dh, ff_norm)
    dx = dx + dy
    dn_read, dM, dp_read = read_backward(dx, read, p)
    da, dp["attn.Wo"] = linear_backward(dx, a, p["attn.Wo"])
    dq, dk, dv = attend_backward(da, attend)
    if write:
        dk_slots, dv_slots, dM_kept, dp_write = write_backward(dM_next, write, p)
        dk, dv, dM = dk + dk_slots, dv + dv_slots, dM + dM_kept
    dq, dk = rope(dq, range(dy.shape[1]), -1), rope(dk, range(dy.shape[1]), -1)
    dn, dp["attn.Wqkv"] = linear_backward(np.concatenate((dq, dk, dv), -1), n, p["attn.Wqkv"])
    dx_norm, dp["attn.g"] = rmsnorm_backward(dn + dn_read, norm)
    for name, g in (dp_read | dp_write).items():         # Wqkv and Wo served the words and the slots: a sum
        dp[name] = dp.get(name, 0) + g
    return dx + dx_norm, dM, dp

def story_backward(dlogits, cache):
    """From the last segment to the first: only the gradients of the banks pass from a segment to the one before."""
    params, segments, caches, y, norm = cache
    grads, dbanks = {name: np.zeros_like(W) for name, W in params.items()}, [None] * L
    dy, grads["head.W"] = linear_backward(dlogits, y, params["head.W"])
    dy, grads["norm.g"] = rmsnorm_backward(dy, norm)
    for s in reversed(range(len(segments))):
        dx = np.zeros((*segments[s].shape, D), dlogits.dtype)
        dx[:, -A:] = dy
        for i in reversed(range(L)):
            dx, dbanks[i], dp = block_backward(dx, dbanks[i], caches[s * L + i])
            for name, g in dp.items():
                grads[f"blocks.{i}.{name}"] += g
        onehot = np.eye(V, dtype=dx.dtype)[segments[s]]  # looking up a word is a product with its one-hot row
        grads["embed.W"] += linear_backward(D**0.5 * dx, onehot, params["embed.W"])[1]
        dy = 0                                           # only the last segment has logits
    return grads

def loss_and_gradients(params, rows):
    """The mean of -log p at the answer's words; the gradient at the logits is what was predicted minus what came."""
    logits, cache = story_forward(params, rows[:, :-1])
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)                                                        # (B, A, V)
    came = np.eye(V, dtype=p.dtype)[rows[:, -A:]]
    return -np.log((p * came).sum(-1)).mean(), story_backward((p - came) / (len(rows) * A), cache)

# ------------------------------------------------------------------------------------------------------ 5. The training

def initial_params(seed):
    """Random matrices, and gates that begin by reading the bank cautiously (bout) and forgetting slowly (bforget)."""
    shapes = {"attn.Wqkv": (D, 3 * D), "attn.Wo": (D, D), "ff.Wgu": (D, 2 * F), "ff.Wdown": (F, D)}
    shapes |= {f"mem.{name}": (D, D) for name in ("Wq", "Wk", "Wv", "Wout", "Win", "Wforget")}
    vectors = {"attn.g": 1, "mem.g": 1, "mem.bin": 0, "mem.bforget": 3, "mem.bout": -1, "ff.g": 1}
    rng = np.random.default_rng(seed)
    params = {"embed.W": rng.normal(0, D**-0.5, (V, D)), "norm.g": np.ones(D), "head.W": rng.normal(0, D**-0.5, (D, V))}
    for i in range(L):
        for name, shape in shapes.items():
            depth = 2 * L if name in ("attn.Wo", "ff.Wdown") else 1          # 2 L of these add up in x
            params[f"blocks.{i}.{name}"] = rng.normal(0, (shape[0] * depth) ** -0.5, shape)
        params |= {f"blocks.{i}.{name}": np.full(D, value) for name, value in vectors.items()}
    return {name: W.astype(np.float32) for name, W in params.items()}

def adamw(params, grads, moments, step, rate):
    """Every entry moves, in place, by the mean of its past gradients (m) over their root mean square (v)."""
    norm = sum((g * g).sum() for g in grads.values()) ** 0.5
    for name, W in params.items():
        g, (m, v) = grads[name] / max(norm, 1), moments[name]                # clipped: all together have norm 1 at most
        m += 0.1 * (g - m)
        v += 0.02 * (g * g - v)
        W *= 1 - 0.01 * rate * (W.ndim == 2)                                 # only matrices decay
        W -= rate * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.98**step)) + 1e-8)

# Name, facts of a story, lengths of a row, gap, rows of a batch, steps at most, mean of 20 losses that ends the stage.
STAGES = (("A", [2], [None], 0.0, 128, 1000, 0.02),                          # to bind a name to a place, without filler
          ("A2", [2, 4], [T], 0.0, 64, 300, 0.05),                           # to do so in a full segment
          ("B", [2, 4, 6, 8, 10], [2 * T, 3 * T, 4 * T], 0.7, 64, 1000, 0.0))            # to remember it in the bank

def train(seed, stages=STAGES):
    """The parameters after all stages, and the losses of all steps."""
    rng, params, losses = random.Random(seed), initial_params(seed), []
    moments = {name: np.zeros((2, *W.shape), W.dtype) for name, W in params.items()}
    for name, counts, lengths, gap, size, steps, enough in stages:
        first = len(losses)
        while len(losses) < first + steps and (len(losses) < first + 20 or np.mean(losses[-20:]) >= enough):
            length = rng.choice(lengths)
            rows = np.array([row(rng, rng.choice(counts), length, gap) for _ in range(size)])
            loss, grads = loss_and_gradients(params, rows)
            done = (len(losses) - first) / steps if name == stages[-1][0] else 0         # in the last stage: a cosine
            losses.append(float(loss))
            rate = 6e-3 * min(1, len(losses) / 100) * (0.525 + 0.475 * float(np.cos(np.pi * done)))
            adamw(params, grads, moments, len(losses), rate)
            if len(losses) % 100 == 0:
                print(f"{name:<2}  step {len(losses):>4}  loss {np.mean(losses[-20:]):.3f}", flush=True)
    return params, losses

# ---------------------------------------------------------------------------------------------------- 6. The evaluation

def accuracy(params, rng, segments, questions=500):
    """How often the answer is the likeliest word, and then [end]; 0 segments are stories without filler."""
    right = 0
    for _ in range(questions):
        words = np.array([row(rng, rng.choice([2, 4, 6, 8, 10]), segments * T or None)])
        right += (story_forward(params, words[:, :-1])[0].argmax(-1) == words[:, -A:]).all()
    return right / questions

if __name__ == "__main__":
    params, losses = train(seed=int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    print(f"{len(losses)} steps, {time.process_time():.0f} s of one core")
    for segments in (0, 4, 8):
        print(f"{segments} segments: accuracy {accuracy(params, random.Random(10**6), segments):.3f}")
