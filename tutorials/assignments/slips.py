"""More mistakes for the bank of wrong solutions: edits of the lines in plain.py, as students make them.

EARLY was written before the feedback was rebuilt for it. HELD_BACK was written in the same hour, and graded for the
first time when that work was done: README.md has the share that was right then. Each entry: assignment, mistake,
function, argument, what one line must say, the edits (old, new), and what else may truly be said.
"""

EARLY = [
    # ------------------------------------------------------------------------------------------------------------ a1
    ("a1", "a mean over the entries", "central_differences", "slopes", r"mean where a sum|1/\(T D\)|1/15|mean", [
        ("(above - below).sum()", "(above - below).mean()")]),
    ("a1", "divided by 2, times eps", "central_differences", "slopes", r"eps\^2|eps \* eps|parenthes", [
        ("/ (2 * eps)", "/ 2 * eps")]),
    ("a1", "the start is no copy", "central_differences", "asked at x - eps move", r"one-sided|never asked", [
        ("start = x.copy()", "start = x")]),
    ("a1", "x bound anew", "central_differences", "x", r"never asked at x \+ eps|zero everywhere", [
        ("x[...] = start + eps * u", "x = start + eps * u"), ("x[...] = start - eps * u", "x = start - eps * u")]),
    ("a1", "the largest of the analytic ones", "worst_entry", "error", r"analytic stands where slopes", [
        ("scale = abs(slopes).max()", "scale = abs(analytic).max()")]),
    ("a1", "the largest slope without its sign", "worst_entry", "error", r"abs", [
        ("scale = abs(slopes).max()", "scale = slopes.max()")]),
    ("a1", "the axes in the wrong order", "worst_entry", "index", r"axes|order", [
        ("np.unravel_index(distance.argmax(), distance.shape)",
         "np.unravel_index(distance.argmax(), distance.shape[::-1])")]),
    ("a1", "y in the cache for dy", "linear_backward", "dW", r"does not (move|change) with dy|y .* where dy", [
        ("return y, (x, W)", "return y, (x, W, y)"), ("x, W = cache", "x, W, y = cache"),
        ("x.reshape(-1, D).T @ dy.reshape(-1, E)", "x.reshape(-1, D).T @ y.reshape(-1, E)")]),
    ("a1", "a reshape for a transpose", "linear_backward", "dW", r"reshape.*transpose|transpose.*reshape", [
        ("x.reshape(-1, D).T @", "x.reshape(D, -1) @")]),
    ("a1", "float32 built in", "linear_backward", "dx", r"float32, expected float64", [
        ("dx = dy @ W.T", "dx = (dy @ W.T).astype(np.float32)")]),
    # ------------------------------------------------------------------------------------------------------------ a2
    ("a2", "keepdims forgotten in the total", "cross_entropy_backward", "dlogits", r"sum|add up|axis|raised", [
        ("total = e.sum(-1, keepdims=True)\n    p = e / total", "total = e.sum(-1, keepdims=True)\n"
         "    p = e / (e.sum(0) if e.ndim > 1 else e.sum())")]),
    ("a2", "the weights' sum forgotten", "cross_entropy_backward", "dlogits", r"sum of the weights", [
        ("return loss, (p, w, targets)", "return loss, (p, weights, targets)")]),
    ("a2", "a mean over V", "cross_entropy_backward", "dlogits", r"1/V", [
        ("dlogits = dloss * w[..., None] * dz", "dlogits = dloss * w[..., None] * dz / V")]),
    ("a2", "the exponentials for the probabilities", "cross_entropy_backward", "dlogits",
     r"add up to zero|e .*where p|probabilities", [
        ("return loss, (p, w, targets)", "return loss, (e, w, targets)")]),
    ("a2", "the one at the largest logit", "cross_entropy_backward", "dlogits", r"target", [
        ("targets[..., None] == np.arange(V)", "p.argmax(-1)[..., None] == np.arange(V)")]),
    ("a2", "logarithm of base two", "cross_entropy_forward", "loss", r"ln\(2\)|base 2|log2|logarithm", [
        ("logp = z - np.log(total)", "logp = (z - np.log(total)) / np.log(2)")]),
    ("a2", "a sum over the places", "cross_entropy_forward", "loss", r"sum of the weights|doubling every weight", [
        ("w = weights / weights.sum()", "w = weights")]),
    ("a2", "dy where dn was meant", "rmsnorm_backward", "dx", r"dy .*dn|dn .*dy", [
        ("mean = (dn * n).mean", "mean = (dy * n).mean")]),
    ("a2", "x where n was meant", "rmsnorm_backward", "dx", r"orthogonal|x .*where n|n .*x", [
        ("return y, (n, r, g)", "return y, (n, r, g, x)"), ("n, r, g = cache", "n, r, g, x = cache"),
        ("dx = r * (dn - n * mean)", "dx = r * (dn - x * mean)")]),
    ("a2", "a sum for the mean in dx", "rmsnorm_backward", "dx", r"orthogonal|sum.*mean|mean", [
        ("mean = (dn * n).mean(-1", "mean = (dn * n).sum(-1")]),
    ("a2", "the sign inside", "rmsnorm_backward", "dx", r"orthogonal|sign", [
        ("dn - n * mean", "dn + n * mean")]),
    ("a2", "a mean taken off, as LayerNorm does", "rmsnorm_forward", "y",
     r"constant|shift|mean (is )?taken off|LayerNorm", [
        ("mean = (x * x).mean(-1, keepdims=True)", "x = x - x.mean(-1, keepdims=True)\n"
         "    mean = (x * x).mean(-1, keepdims=True)")]),
    # ------------------------------------------------------------------------------------------------------------ a3
    ("a3", "exponents of half the size", "rope_forward", "y", r"w_i|base|angle|frequenc|exponent", [
        ("base ** (-2 * np.arange(K // 2) / K)", "base ** (-np.arange(K // 2) / K)")]),
    ("a3", "the second line sees the first", "rope_forward", "y", r"in place|overwritten|lengths|length", [
        ("y = np.empty(x.shape, x.dtype)", "y = x.copy()\n    even, odd = y[..., ::2], y[..., 1::2]")]),
    ("a3", "only half the pairs turned back", "rope_backward", "dx", r"odd|1::2|2i\+1|entries are wrong|turned", [
        ("dx[..., 1::2] = odd * c - even * s", "dx[..., 1::2] = odd * c + even * s")]),
    ("a3", "the mask one place too strict", "attend_forward", "y", r"must see|not finite", [
        ("hidden |= place > own", "hidden |= place >= own")]),
    ("a3", "the queries stand at the first places", "attend_forward", "y", r"must see|must not see", [
        ("own = place[U - T:, None]", "own = place[:T, None]")]),
    ("a3", "hidden places get zero, not minus infinity", "attend_forward", "y", r"moves with|zero|not see", [
        ("np.where(hidden[:, None], -np.inf, S)", "np.where(hidden[:, None], 0.0, S)")]),
    ("a3", "the row's sum over the wrong axis", "attend_backward", "dq", r"axis|dS .*add up|add up", [
        ("total = (dP * P).sum(-1, keepdims=True)", "total = (dP * P).sum(-2, keepdims=True)")]),
    ("a3", "dP where dS was meant", "attend_backward", "dq", r"dP .*dS|dS .*dP", [
        ("dq = np.einsum(\"bhtu,buhk->bthk\", dS, kk)", "dq = np.einsum(\"bhtu,buhk->bthk\", dP, kk)")]),
    ("a3", "heads of a group averaged", "attend_backward", "dk", r"mean|1/2|R\b", [
        ("dk = dkk.reshape(B, U, G, H // G, K).sum(3)", "dk = dkk.reshape(B, U, G, H // G, K).mean(3)")]),
    ("a3", "dk added after the turn", "self_attention_backward", "dWqkv", r"dk|turn|rope", [
        ("        dkeys = dkeys + dk\n", ""),
        ("(dkeys,) = ops.rope_backward(dkeys, cache[\"rope k\"])\n",
         "(dkeys,) = ops.rope_backward(dkeys, cache[\"rope k\"])\n    dkeys = dkeys if dk is None else dkeys + dk\n")]),
    ("a3", "the order of the columns", "self_attention_backward", "dWqkv", r"order|columns|swapped", [
        ("np.concatenate((dWq, dWk, dWv), axis=1)", "np.concatenate((dWq, dWv, dWk), axis=1)")]),
    # ------------------------------------------------------------------------------------------------------------ a4
    ("a4", "the bias taken off", "output_gate_forward", "y", r"bout.*(other way|taken off|subtract|sign)|sign.*bout", [
        ("z = Emem @ Wout + bout", "z = Emem @ Wout - bout")]),
    ("a4", "the slope of sigmoid forgotten", "output_gate_backward", "dWout", r"gout \(1 - gout\)|slope", [
        ("dz = dgout * gout * (1 - gout)", "dz = dgout")]),
    ("a4", "half the slope of sigmoid", "output_gate_backward", "dbout", r"1 - gout", [
        ("dz = dgout * gout * (1 - gout)", "dz = dgout * gout")]),
    ("a4", "Wq not transposed", "cross_attention_backward", "dn", r"Wq", [
        ("dn = dQ @ Wq.T", "dn = dQ @ Wq")]),
    ("a4", "heads by another reshape", "cross_attention_forward", "Emem", r"head", [
        ("Q = (n @ Wq).reshape(B, T, heads, D // heads)",
         "Q = (n @ Wq).reshape(B, T, D // heads, heads).swapaxes(2, 3)")]),
    # ------------------------------------------------------------------------------------------------------------ a5
    ("a5", "a bias taken off", "memory_update_forward", "M'", r"bforget|forget gate", [
        ("(R @ Wforget + bforget)", "(R @ Wforget - bforget)")]),
    ("a5", "tanh of the gated rows", "memory_update_forward", "M'", r"tanh|content", [
        ("M_next = gin * content + gforget * M", "M_next = np.tanh(gin * R) + gforget * M")]),
    ("a5", "the slope of tanh forgotten", "memory_update_backward", "dR", r"tanh|1 - content|content", [
        ("dcontent * (1 - content**2)", "dcontent")]),
    ("a5", "dR without the forget gate's share", "memory_update_backward", "dR", r"Wforget|forget", [
        (" + dzforget @ Wforget.T", "")]),
    ("a5", "the position of each slot", "write_attention_forward", "R", r"position|step", [
        ("start=position, step=0", "start=position, step=1")]),
    ("a5", "dWqkv on the last rows", "write_attention_backward", "dWqkv", r"rows", [
        ("dWqkv[:N, :HK]", "dWqkv[-N:, :HK]")]),
    # ------------------------------------------------------------------------------------------------------------ a6
    ("a6", "blocks walked upwards", "segment_backward", "grads", r"order of the blocks|block", [
        ("for i in range(cfg.L - 1, -1, -1):", "for i in range(cfg.L):")]),
    ("a6", "the last norm passed by", "segment_backward", "grads", r"norm", [
        ("dx, grads[\"norm.g\"] = ops.rmsnorm_backward(dx, cache[\"norm\"])",
         "_, grads[\"norm.g\"] = ops.rmsnorm_backward(dx, cache[\"norm\"])")]),
    ("a6", "the replay starts from the next state", "story_backward", "grads", r"recomputed", [
        ("cache[\"states\"][s], cfg=cfg, **call",
         "cache[\"states\"][min(s + 1, len(cache[\"states\"]) - 1)], cfg=cfg, **call")]),
    ("a6", "b1 for b2", "AdamW.step", "v", r"b1 .*b2|b2 .*b1|betas", [
        ("self.v[...] = b2 * self.v + (1 - b2) * g**2", "self.v[...] = b1 * self.v + (1 - b1) * g**2")]),
    ("a6", "eps inside the root", "AdamW.step", "update", r"eps", [
        ("(np.sqrt(v_hat) + self.eps)", "np.sqrt(v_hat + self.eps)")]),
    ("a6", "no root", "AdamW.step", "update", r"root|sqrt", [
        ("(np.sqrt(v_hat) + self.eps)", "(v_hat + self.eps)")]),
    ("a6", "the norm of the matrices only", "clip", "norm", r"matrices|vectors|attn\.g|bin", [
        ("norm = np.sqrt((grads.buffer**2).sum())", "norm = np.sqrt((grads.matrices**2).sum())")]),
]

HELD_BACK = [
    # ------------------------------------------------------------------------------------------------------------ a1
    ("a1", "only one side divided", "central_differences", "slopes", r"never asked|one-sided|factor|wrong", [
        ("x[...] = start - eps * u", "x[...] = start")]),
    ("a1", "eps to the second", "central_differences", "slopes", r"eps", [
        ("/ (2 * eps)", "/ (2 * eps**2)")]),
    ("a1", "the smallest distance", "worst_entry", "index", r"farthest|index is wrong", [
        ("distance.argmax()", "distance.argmin()")]),
    ("a1", "squares for distances", "worst_entry", "error", r"square", [
        ("distance = abs(analytic - slopes)", "distance = (analytic - slopes) ** 2")]),
    ("a1", "the mean slope for a scale", "worst_entry", "error", r"mean|average|largest", [
        ("scale = abs(slopes).max()", "scale = abs(slopes).mean()")]),
    ("a1", "keepdims in a sum of dW", "linear_backward", "dW", r"shape", [
        ("dW = x.reshape(-1, D).T @ dy.reshape(-1, E)", "dW = (x.reshape(-1, D).T @ dy.reshape(-1, E))[None]")]),
    ("a1", "dx through y", "linear_backward", "dx", r"does not (move|change) with dy|y .* where dy", [
        ("return y, (x, W)", "return y, (x, W, y)"), ("x, W = cache", "x, W, y = cache"),
        ("dx = dy @ W.T", "dx = y @ W.T")]),
    ("a1", "dW halved", "linear_backward", "dW", r"0\.5|half|1/2", [
        ("dy.reshape(-1, E)\n", "dy.reshape(-1, E) / 2\n")]),
    # ------------------------------------------------------------------------------------------------------------ a2
    ("a2", "weights squared", "cross_entropy_backward", "dlogits", r"weight|w\b", [
        ("dloss * w[..., None] * dz", "dloss * w[..., None] ** 2 * dz")]),
    ("a2", "the weights on the one only", "cross_entropy_backward", "dlogits", r"weight|add up to zero|w\b", [
        ("dlogits = dloss * w[..., None] * dz", "dlogits = dloss * (p - w[..., None] * onehot)")]),
    ("a2", "softmax's own Jacobian once more", "cross_entropy_backward", "dlogits", r"add up to zero|factor|p\b", [
        ("dlogits = dloss * w[..., None] * dz", "dlogits = dloss * w[..., None] * dz * p")]),
    ("a2", "targets shifted by one", "cross_entropy_forward", "loss", r"target", [
        ("np.take_along_axis(logp, targets[..., None], -1)", "np.take_along_axis(logp, targets[..., None] - 1, -1)")]),
    ("a2", "the number of places for the weights' sum", "cross_entropy_forward", "loss",
     r"doubling every weight|number of places", [
        ("w = weights / weights.sum()", "w = weights / weights.size")]),
    ("a2", "eps after the root", "rmsnorm_forward", "y", r"eps", [
        ("r = 1 / np.sqrt(mean + eps)", "r = 1 / np.sqrt(mean) + eps")]),
    ("a2", "no root", "rmsnorm_forward", "y", r"root", [
        ("r = 1 / np.sqrt(mean + eps)", "r = 1 / (mean + eps)")]),
    ("a2", "r forgotten in dx", "rmsnorm_backward", "dx", r"\br\b|1/r|root mean square", [
        ("dx = r * (dn - n * mean)", "dx = dn - n * mean")]),
    ("a2", "g forgotten behind", "rmsnorm_backward", "dx", r"\bg\b|dn", [
        ("dn = dy * g", "dn = dy")]),
    ("a2", "x for n in dg", "rmsnorm_backward", "dg", r"x .*n\b|\bn\b|\br\b", [
        ("return y, (n, r, g)", "return y, (n, r, g, x)"), ("n, r, g = cache", "n, r, g, x = cache"),
        ("dg = (dy * n)", "dg = (dy * x)")]),
    ("a2", "mean over all axes", "rmsnorm_backward", "dx", r"axis|axes|orthogonal", [
        ("mean = (dn * n).mean(-1, keepdims=True)", "mean = (dn * n).mean(keepdims=True)")]),
    # ------------------------------------------------------------------------------------------------------------ a3
    ("a3", "step forgotten", "rope_forward", "y", r"step", [
        ("p = start + step * np.arange(T)", "p = start + np.arange(T)")]),
    ("a3", "one angle for all pairs", "rope_forward", "y", r"w_i|base|angle|frequenc|\bw\b", [
        ("-2 * np.arange(K // 2) / K", "0 * np.arange(K // 2) / K")]),
    ("a3", "sine and cosine swapped", "rope_backward", "dx", r"\bsin\b", [
        ("dx[..., ::2] = even * c + odd * s", "dx[..., ::2] = even * s + odd * c")]),
    ("a3", "softmax before the mask", "attend_forward", "y", r"add up|must not|moves with", [
        ("    S = np.where(hidden[:, None], -np.inf, S)\n    e = np.exp(S - S.max(-1, keepdims=True))\n"
         "    P = e / e.sum(-1, keepdims=True)\n",
         "    e = np.exp(S - S.max(-1, keepdims=True))\n"
         "    P = e / e.sum(-1, keepdims=True)\n    P = np.where(hidden[:, None], 0.0, P)\n")]),
    ("a3", "padding off by one", "attend_forward", "y", r"padding|pad", [
        ("padded = place < pad[:, None, None]", "padded = place <= pad[:, None, None]")]),
    ("a3", "dv from the scores", "attend_backward", "dv", r"dS|\bP\b|does not|moves|must not", [
        ("dvv = np.einsum(\"bhtu,bthk->buhk\", P, dy)", "dvv = np.einsum(\"bhtu,bthk->buhk\", dP, dy)")]),
    ("a3", "P forgotten before the bracket", "attend_backward", "dk", r"\bP\b", [
        ("dS = P * (dP - total)", "dS = dP - total")]),
    ("a3", "scaled twice on the way back", "attend_backward", "dq", r"1/sqrt\(K\)", [
        ("dS = P * (dP - total)", "dS = P * (dP - total) / K**0.5")]),
    ("a3", "dn without the queries", "self_attention_backward", "dn", r"dn_q", [
        ("    dn[:, T - last:] += dn_q\n", "")]),
    ("a3", "the past cut at the wrong end", "self_attention_backward", "dpast", r"past|own|cut|places|U\b", [
        ("dpast = (dkeys[:, :U], dvalues[:, :U]) if U else None",
         "dpast = (dkeys[:, -U:], dvalues[:, -U:]) if U else None")]),
    # ------------------------------------------------------------------------------------------------------------ a4
    ("a4", "Emem passed by the gate", "output_gate_forward", "y", r"with the gate shut|gate", [
        ("y = x + a + gout * Emem", "y = x + a + Emem")]),
    ("a4", "a forgotten", "output_gate_forward", "y", r"does not move with a\b", [
        ("y = x + a + gout * Emem", "y = x + gout * Emem")]),
    ("a4", "dx through the gate", "output_gate_backward", "dx", r"gout|gate|factor", [
        ("return dy, dy, dEmem", "return dy * gout, dy, dEmem")]),
    ("a4", "dMn without a transpose", "cross_attention_backward", "dMn", r"Wv|transpos", [
        ("dV @ Wv.T", "dV @ Wv")]),
    ("a4", "dWv from the keys", "cross_attention_backward", "dWv", r"gradient of dWk|dK", [
        ("dWv = Mn.reshape(-1, D).T @ dV.reshape(-1, D)", "dWv = Mn.reshape(-1, D).T @ dK.reshape(-1, D)")]),
    # ------------------------------------------------------------------------------------------------------------ a5
    ("a5", "the gates add up to one", "memory_update_forward", "M'", r"does not move with|1 - g", [
        ("M_next = gin * content + gforget * M", "M_next = gin * content + (1 - gin) * M")]),
    ("a5", "the bank in both", "memory_update_backward", "dWforget", r"\bM\b|\bR\b", [
        ("dWforget = R.reshape(-1, D).T @ dzforget.reshape(-1, D)",
         "dWforget = M.reshape(-1, D).T @ dzforget.reshape(-1, D)")]),
    ("a5", "the content's gate for the bank", "memory_update_backward", "dM", r"gin|gforget|gate", [
        ("dM = dM_next * gforget", "dM = dM_next * gin")]),
    ("a5", "keys not grouped in the address", "write_attention_forward", "R", r"root|sqrt|times|D\b", [
        ("D**0.5 * Wq[:slots]", "D * Wq[:slots]")]),
    ("a5", "not turned back", "write_attention_backward", "dWqkv", r"turn|rope", [
        ("(dasked,) = ops.rope_backward(dq, turned)", "dasked = dq")]),
    # ------------------------------------------------------------------------------------------------------------ a6
    ("a6", "scaled by D", "segment_backward", 'grads["embed.W"]', r"sqrt\(D\)", [
        ("dx = dx * cfg.D**0.5", "dx = dx * cfg.D")]),
    ("a6", "one state for all blocks", "segment_backward", "grads|dstates", r"dstates|block", [
        ("model.block_backward(dx, dstates[i],", "model.block_backward(dx, dstates[0],")]),
    ("a6", "rows from the front", "story_backward", "grads", r"rows|segment|order", [
        ("dlogits[:, end - rows:end]", "dlogits[:, s * rows:(s + 1) * rows]"), ("end = end - rows", "end = end")]),
    ("a6", "the cut one segment early", "story_backward", "grads", r"cut|truncate", [
        ("s % cache[\"truncate\"] == 0", "(s + 1) % cache[\"truncate\"] == 0")]),
    ("a6", "the last share wins", "story_backward", "grads", r"segment|share|add", [
        ("grads[name] += share", "grads[name][...] = share")]),
    ("a6", "t counted afterwards", "AdamW.step", "update", r"t\b|corrected|not finite|step", [
        ("        self.t += 1\n", ""),
        ("(np.sqrt(v_hat) + self.eps)\n", "(np.sqrt(v_hat) + self.eps)\n        self.t += 1\n"),
        ("1 - b1**self.t", "1 - b1**max(self.t, 1)"), ("1 - b2**self.t", "1 - b2**max(self.t, 1)")]),
    ("a6", "decay in the gradient", "AdamW.step", "update", r"decay", [
        ("        g = grads.buffer\n", "        g = grads.buffer.copy()\n"
         "        g[:len(params.matrices)] += self.decay * params.matrices\n"),
        ("        params.matrices *= 1 - lr * self.decay\n", "")]),
    ("a6", "the gradient for its square", "AdamW.step", "v", r"square|g\b", [
        ("(1 - b2) * g**2", "(1 - b2) * abs(g)")]),
    ("a6", "clipped to the limit squared", "clip", "grads", r"direction|factor|limit|times", [
        ("limit / (norm + 1e-12)", "limit / (norm**2 + 1e-12)")]),
]

# Written when the feedback was done, with other structures and more than one mistake, and graded once before anything
# was changed for them.
LATE = [
    ("a1", "the stories in another order", "linear_backward", "dW", r"known of it", [
        ("dW = x.reshape(-1, D).T @ dy.reshape(-1, E)", "dW = x[::-1].reshape(-1, D).T @ dy.reshape(-1, E)")]),
    ("a1", "a sign here and a mean there", "linear_backward", "dx", r"sign", [
        ("dx = dy @ W.T", "dx = -(dy @ W.T)"), ("dy.reshape(-1, E)\n", "dy.reshape(-1, E) / len(dy)\n")]),
    ("a1", "moves of length one", "central_differences", "f was never asked|slopes", r"asked at|wrong in", [
        ("for u in moves:", "for u in [u / np.sqrt((u * u).sum()) for u in moves]:")]),
    ("a1", "the median for a scale", "worst_entry", "error", r"wrong", [
        ("scale = abs(slopes).max()", "scale = np.median(abs(slopes))")]),
    ("a2", "labels smoothed", "cross_entropy_backward", "dlogits", r"known of it|token|one", [
        ("dz = p - onehot", "dz = p - 0.9 * onehot - 0.1 / V")]),
    ("a2", "probabilities squared and normed again", "cross_entropy_backward", "dlogits", r"known of it|p\b", [
        ("dz = p - onehot", "dz = p**2 / (p**2).sum(-1, keepdims=True) - onehot")]),
    ("a2", "LayerNorm's backward", "rmsnorm_backward", "dx", r"orthogonal|known of it", [
        ("dx = r * (dn - n * mean)", "dx = r * (dn - dn.mean(-1, keepdims=True) - n * mean)")]),
    ("a2", "a mean over two axes", "rmsnorm_forward", "y", r"root mean square|axes|axis", [
        ("mean = (x * x).mean(-1, keepdims=True)", "mean = (x * x).mean((-1, -2), keepdims=True)")]),
    ("a2", "the gain added", "rmsnorm_forward", "y", r"\+|factor|g\b", [
        ("y = g * n", "y = n + g")]),
    ("a3", "padding at the other end", "attend_forward", "y", r"padding|pad", [
        ("padded = place < pad[:, None, None]", "padded = place >= U - pad[:, None, None]")]),
    ("a3", "positions backwards", "rope_forward", "y", r"place 0", [
        ("p = start + step * np.arange(T)", "p = start + step * np.arange(T)[::-1]")]),
    ("a3", "P left out of the row's sum", "attend_backward", "dq", r"P\b.*missing", [
        ("total = (dP * P).sum(-1, keepdims=True)", "total = dP.sum(-1, keepdims=True)")]),
    ("a3", "the past's two gradients swapped", "self_attention_backward", "dpast", r"swapped|dpast.1", [
        ("dpast = (dkeys[:, :U], dvalues[:, :U]) if U else None",
         "dpast = (dvalues[:, :U], dkeys[:, :U]) if U else None")]),
    ("a3", "q not turned back, k turned twice", "self_attention_backward", "dWqkv", r"known of it|rope|turn|dq", [
        ("(dq,) = ops.rope_backward(dq, cache[\"rope q\"])\n", ""),
        ("(dkeys,) = ops.rope_backward(dkeys, cache[\"rope k\"])\n",
         "(dkeys,) = ops.rope_backward(ops.rope_backward(dkeys, cache[\"rope k\"])[0], cache[\"rope k\"])\n")]),
    ("a4", "tanh for sigmoid", "output_gate_forward", "y", r"gate|gout", [
        ("gout = 1 / (1 + np.exp(-z))", "gout = np.tanh(z)")]),
    ("a4", "one transposed, the other not", "output_gate_backward", "dWout", r"transposed|exchanged", [
        ("dz @ Wout.T", "dz @ Wout"),
        ("dWout = Emem.reshape(-1, D).T @ dz.reshape(-1, D)", "dWout = dz.reshape(-1, D).T @ Emem.reshape(-1, D)")]),
    ("a4", "queries made of Wk's gradient", "cross_attention_backward", "dWq", r"dK|n\b|shape|Mn|raised", [
        ("dWq = n.reshape(-1, D).T @ dQ.reshape(-1, D)", "dWq = n.reshape(-1, D).T @ (dQ @ Wq.T).reshape(-1, D)")]),
    ("a5", "the gates' shares through each other's matrix", "memory_update_backward", "dR", r"exchanged|stands where", [
        ("dzin @ Win.T + dzforget @ Wforget.T", "dzin @ Wforget.T + dzforget @ Win.T")]),
    ("a5", "tanh' without the square", "memory_update_backward", "dR", r"square|content", [
        ("(1 - content**2)", "(1 - content)")]),
    ("a5", "softmax's gates", "memory_update_forward", "M'", r"gate|moves with|M' must", [
        ("    M_next = gin * content", "    gin, gforget = gin / (gin + gforget), gforget / (gin + gforget)\n"
         "    M_next = gin * content")]),
    ("a6", "corrected for one step too many", "AdamW.step", "update", r"self\.t|t\b|corrected", [
        ("1 - b1**self.t", "1 - b1**(self.t + 1)"), ("1 - b2**self.t", "1 - b2**(self.t + 1)")]),
    ("a6", "the rate twice", "AdamW.step", "update", r"lr", [
        ("params.buffer -= lr * m_hat", "params.buffer -= lr * lr * m_hat")]),
    ("a6", "the sum of sizes for the norm", "clip", "norm", r"norm is (wrong|what)", [
        ("norm = np.sqrt((grads.buffer**2).sum())", "norm = abs(grads.buffer).sum()")]),
    ("a6", "truncate counted from the end", "story_backward", "grads", r"cut|truncate", [
        ("s % cache[\"truncate\"] == 0", "(len(cache[\"calls\"]) - s) % cache[\"truncate\"] == 0")]),
    ("a6", "the states' gradients turned round", "segment_backward", "grads|dstates", r"dstates|order|state", [
        ("dstates = (None,) * (cfg.L + 1)\n",
         "dstates = (None,) * (cfg.L + 1)\n    dstates = (*dstates[-2::-1], None)\n")]),
]

# By a second author, who had not read how the feedback is made, in a solution of another structure (by_hand.py).
SECOND = [
    ("a1", "a mean over what f gives", "central_differences", "slopes", r"mean|factor|times what", [
        ("np.sum(above - below)", "np.mean(above - below)")]),
    ("a1", "x kept as a view", "central_differences", "asked at x - eps move|x is not", r"one-sided|never asked", [
        ("before = x.copy()", "before = x")]),
    ("a1", "relative to the other array", "worst_entry", "error", r"analytic|scale|largest slope", [
        ("scale = np.abs(slopes).max()", "scale = np.abs(analytic).max()")]),
    ("a1", "a reshape where a transpose belongs", "linear_backward", "dW", r"reshape|transpose|order", [
        ("rows = x.reshape(-1, W.shape[0])\n    dW = rows.T @", "rows = x.reshape(W.shape[0], -1)\n    dW = rows @")]),
    ("a2", "one taken off at every target of the story", "cross_entropy_backward", "dlogits",
     r"add up|target|taken off", [
         ("one = np.arange(p.shape[-1]) == targets[..., None]\n", "d = p.copy()\n    d[..., targets] -= 1\n"),
         ("(p - one)", "d")]),
    ("a2", "dy where dn belongs in the mean", "rmsnorm_backward", "dx", r"dy .*dn|orthogonal", [
        ("(dn * n).mean(-1, keepdims=True)", "(dy * n).mean(-1, keepdims=True)")]),
    ("a2", "a mean over everything", "rmsnorm_forward", "y", r"root mean square|axis|axes", [
        ("(x * x).mean(-1, keepdims=True)", "(x * x).mean(keepdims=True)")]),
    ("a3", "w by half the width", "rope_forward", "y", r"w_i|angle|frequenc|base|K // 2|exponent", [
        ("-2.0 * np.arange(K // 2) / K", "-2.0 * np.arange(K // 2) / (K // 2)")]),
    ("a3", "a query sees the next place, too", "attend_forward", "y", r"must not|later|after", [
        ("place[None, None, :] <= at[None, :, None]", "place[None, None, :] <= at[None, :, None] + 1")]),
    ("a3", "the sum of the softmax along the queries", "attend_backward", "dq", r"axis|axes|add up", [
        ("(P * dP).sum(-1, keepdims=True)", "(P * dP).sum(-2, keepdims=True)")]),
    ("a3", "key heads dealt in turns", "attend_forward", "y", r"head|group", [
        ("qg = q.reshape(B, T, G, R, K)", "qg = q.reshape(B, T, R, G, K).swapaxes(2, 3)")]),
    ("a3", "past and own keys cut the wrong way", "self_attention_backward", "dpast", r"past|cut|own|places|shape", [
        ("dpast = (dkeys[:, :U], dvalues[:, :U]) if U", "dpast = (dkeys[:, T:], dvalues[:, T:]) if U"),
        ("dkeys, dvalues = dkeys[:, U:], dvalues[:, U:]", "dkeys, dvalues = dkeys[:, :T], dvalues[:, :T]")]),
    ("a3", "float64 tables", "rope_forward", "y", r"float64", [
        (".astype(x.dtype)[None, :, None, :]", "[None, :, None, :]"), ("np.empty_like(x)", "np.empty(x.shape)")]),
    ("a4", "dWk and dWv in the wrong order", "cross_attention_backward", "dWk|dWv", r"gradient of dW|swapped", [
        ("dM1 + dM2, dWq, dWk, dWv", "dM1 + dM2, dWq, dWv, dWk")]),
    ("a4", "the gate's share without Emem", "output_gate_backward", "dWout|dEmem|dbout", r"Emem", [
        ("ops.sigmoid_backward(dy * Emem, cs)", "ops.sigmoid_backward(dy, cs)")]),
    ("a5", "the other gate's cache", "memory_update_backward", "dWin|dbin|dR", r"gforget|gin\b|gate", [
        ("ops.sigmoid_backward(dM_next * t, si)", "ops.sigmoid_backward(dM_next * t, sf)")]),
    ("a5", "a mean of the stories' queries", "write_attention_backward", "dWqkv", r"1/B|mean", [
        ("dq.sum(0, keepdims=True)", "dq.mean(0, keepdims=True)")]),
    ("a6", "tied: the head's share overwrites", "segment_backward", 'grads["embed.W"]', r"left out|missing|share", [
        ("dW = dW + dhead.T", "dW = dhead.T")]),
    ("a6", "the cut falls one segment off", "story_backward", "grads", r"cut|truncate", [
        ("s % k == 0", "(s + 1) % k == 0")]),
    ("a6", "1 - b1 for 1 - b2", "AdamW.step", "v|update", r"b1 .*b2|b2 .*b1|beta|times what", [
        ("(1 - b2) * g * g", "(1 - b1) * g * g")]),
]
