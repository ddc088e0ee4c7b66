"use strict";

// LM2 in plain JavaScript: from words to an answer, with the formulas of docs/MODEL.md and the order of its sections.
// Letters: T tokens of a segment, N slots, D width, H heads, G key/value heads, K head width. Every function returns
// new values and changes no argument. A `hook` (the last section) is asked on the way, so that the page can interfere.
// A matrix is { rows, cols, v }; v holds the numbers row after row.

const matrix = (rows, cols, v = new Float64Array(rows * cols)) => ({ rows, cols, v });
const rowOf = (A, r) => A.v.subarray(r * A.cols, (r + 1) * A.cols);
const each = (A, f) => matrix(A.rows, A.cols, A.v.map(f));
const sigmoid = (z) => 1 / (1 + Math.exp(-z));

// ----------------------------------------------------------------------------------------------------------- the parts

/** y = x W. Two rows of x meet two columns of W at a time, so that each number is fetched half as often; a row or a
 *  column that is left alone at the end goes as its own neighbour. */
function linear(x, W) {
  const y = matrix(x.rows, W.cols), D = W.rows, E = W.cols, [X, w, Y] = [x.v, W.v, y.v];
  for (let r = 0; r < x.rows; r += 2) for (let j = 0; j < E; j += 2) {
    const next = r + 1 < x.rows ? 1 : 0, right = j + 1 < E ? 1 : 0, row = r * D, below = (r + next) * D;
    let a = 0, b = 0, c = 0, e = 0;
    for (let d = 0, i = j; d < D; d++, i += E) {
      const one = X[row + d], other = X[below + d], first = w[i], second = w[i + right];
      a += one * first;
      b += one * second;
      c += other * first;
      e += other * second;
    }
    const at = r * E + j, under = (r + next) * E + j;
    Y[at] = a;
    Y[at + right] = b;
    Y[under] = c;
    Y[under + right] = e;
  }
  return y;
}

/** y = g * x / sqrt(mean(x^2) + 1e-5), a row at a time */
function rmsnorm(x, g) {
  const y = matrix(x.rows, x.cols);
  for (let r = 0; r < x.rows; r++) {
    const row = rowOf(x, r);
    const scale = 1 / Math.sqrt(row.reduce((sum, a) => sum + a * a, 0) / x.cols + 1e-5);
    for (let d = 0; d < x.cols; d++) y.v[r * x.cols + d] = g.v[d] * row[d] * scale;
  }
  return y;
}

/** Rotary positions: turn the pairs (2i, 2i+1) of each head by the angle position * 10000^(-2i/K). */
function rope(x, K, position) {
  const y = matrix(x.rows, x.cols);
  for (let r = 0; r < x.rows; r++) for (let i = 0; i < K; i += 2) {
    const angle = position(r) * 10000 ** (-i / K), cos = Math.cos(angle), sin = Math.sin(angle);
    for (let j = r * x.cols + i; j < (r + 1) * x.cols; j += K) {         // the same angle in every head
      y.v[j] = x.v[j] * cos - x.v[j + 1] * sin;
      y.v[j + 1] = x.v[j] * sin + x.v[j + 1] * cos;
    }
  }
  return y;
}

/** y = P v, P = softmax(q k' / sqrt(K)); query head h asks key head floor(h G / H). causal: query t sees the keys 0..t;
 *  hidden(t, u), where there is one, hides key u from query t. */
function attend(q, k, v, K, { causal = false, hidden = null }) {
  const H = q.cols / K, G = k.cols / K, y = matrix(q.rows, q.cols), weights = [], [Q, U, V, Y] = [q.v, k.v, v.v, y.v];
  for (let h = 0; h < H; h++) {
    const P = matrix(q.rows, k.rows), group = Math.floor((h * G) / H) * K;
    for (let t = 0; t < q.rows; t++) {
      const p = rowOf(P, t), from = t * q.cols + h * K, end = causal ? t + 1 : k.rows;
      let top = -Infinity, total = 0;
      for (let u = 0; u < end; u++) {
        p[u] = -Infinity;
        if (hidden !== null && hidden(t, u)) continue;
        const to = u * k.cols + group;
        let score = 0;
        for (let i = 0; i < K; i++) score += Q[from + i] * U[to + i];
        p[u] = score / Math.sqrt(K);
        if (p[u] > top) top = p[u];
      }
      for (let u = 0; u < end; u++) total += p[u] = p[u] === -Infinity ? 0 : Math.exp(p[u] - top);
      for (let u = 0; u < end; u++) {
        if (p[u] === 0) continue;                        // where nothing is seen at all, nothing is gathered
        const share = p[u] /= total, to = u * k.cols + group;
        for (let i = 0; i < K; i++) Y[from + i] += share * V[to + i];
      }
    }
    weights.push(P);
  }
  return { y, weights };
}

function columns(A, from, count) {
  const part = matrix(A.rows, count);
  for (let r = 0; r < A.rows; r++) rowOf(part, r).set(rowOf(A, r).subarray(from, from + count));
  return part;
}

/** x + y, or x + y + z, entry by entry */
const sum = (x, y, z) => each(x, (a, i) => a + y.v[i] + (z ? z.v[i] : 0));

// ----------------------------------------------------------------------------------------------------------- the block

/** Causal self-attention inside the segment. A padded token sees only itself, and nobody else sees it. `idle`: only
 *  the keys and values are wanted. */
function selfAttention(n, p, { H, G, K }, pad, idle) {
  const qkv = linear(n, p["attn.Wqkv"]);
  const k = rope(columns(qkv, H * K, G * K), K, (t) => t), v = columns(qkv, (H + G) * K, G * K);
  if (idle) return { k, v };
  const q = rope(columns(qkv, 0, H * K), K, (t) => t);
  const { y } = attend(q, k, v, K, { causal: true, hidden: pad ? (t, u) => u < pad && u !== t : null });
  return { a: linear(y, p["attn.Wo"]), k, v };
}

/** (silu(h Wgate) * (h Wup)) Wdown */
function feedForward(h, p) {
  const both = linear(h, p["ff.Wgu"]), F = both.cols / 2, up = columns(both, F, F);
  return linear(each(columns(both, 0, F), (z, i) => z * sigmoid(z) * up.v[i]), p["ff.Wdown"]);
}

/** sigmoid(x W + b), or what the hook puts in its place */
function gate(name, x, W, b, at, hook) {
  const z = linear(x, W);
  return hook.gate(name, each(z, (a, i) => sigmoid(a + (b ? b.v[i % b.cols] : 0))), at);
}

/** Equation 1: the tokens read the bank. */
function read(n, M, p, { K }, at, hook) {
  const Mn = rmsnorm(M, p["mem.g"]), off = hook.off(at);
  const { y, weights } = attend(linear(n, p["mem.Wq"]), linear(Mn, p["mem.Wk"]), linear(Mn, p["mem.Wv"]), K,
    { hidden: off.length ? (t, slot) => off.includes(slot) : null });
  return { Emem: y, weights };
}

/** Equations 4 to 6. Each slot gathers from the segment's tokens, as one more token that stands right after them. */
function writeGathered(M, k, v, p, { H, K, D, N }, pad, at, hook) {
  const address = columns(matrix(N, p["attn.Wqkv"].cols, p["attn.Wqkv"].v.subarray(0, N * p["attn.Wqkv"].cols)),
    0, H * K);
  const q = rope(each(address, (a) => a * Math.sqrt(D)), K, () => k.rows);
  const { y, weights } = attend(q, k, v, K, { hidden: pad ? (slot, t) => t < pad : null });
  const R = linear(y, p["attn.Wo"]);
  const input = gate("input", R, p["mem.Win"], p["mem.bin"], at, hook);
  const forget = gate("forget", R, p["mem.Wforget"], p["mem.bforget"], at, hook);
  return { after: rewritten(M, R, input, forget), input, forget, weights };
}

/** Equations 4 to 6 as printed: each slot averages its own share of the tokens. */
function writePooled(M, n, Emem, p, { H, N }, pad, at, hook) {
  const T = n.rows, pool = matrix(N, T);
  for (let r = 0; r < N; r++) {
    const share = rowOf(pool, r), end = Math.ceil(((r + 1) * T) / N);
    const first = Math.max(pad, Math.floor((r * T) / N));
    if (first < end) share.fill(1 / (end - first), first, end);
  }
  const R = linear(pool, Emem);
  const input = gate("input", linear(pool, n), p["mem.Win"], null, at, hook);
  const forget = gate("forget", R, p["mem.Wforget"], null, at, hook), after = rewritten(M, R, input, forget);
  for (let r = 0; r < N; r++) if (!rowOf(pool, r).some((a) => a)) rowOf(after, r).set(rowOf(M, r));
  return { after, input, forget, weights: Array(H).fill(pool) };
}

const rewritten = (M, R, input, forget) => each(M, (m, i) => input.v[i] * Math.tanh(R.v[i]) + forget.v[i] * m);

/** One block over one segment: x and the bank before -> x, the bank after, and what the memory did. `idle`: only the
 *  memory matters, because nobody reads the x of this block. */
function block(x, M, p, cfg, { pad, write, kind, idle, at }, hook) {
  const n = rmsnorm(x, p["attn.g"]), { a, k, v } = selfAttention(n, p, cfg, pad, idle);
  let look = null, after = M, found = null;
  if (M) {
    const { Emem, weights } = read(n, M, p, cfg, at, hook);
    const output = gate("output", Emem, p["mem.Wout"], p["mem.bout"], at, hook);
    found = idle ? null : each(Emem, (e, i) => output.v[i] * e);         // equation 2; the sum below is equation 3
    look = { read: weights, output, before: M, after: M, write: null, input: null, forget: null };
    if (write) {
      const { weights: from, ...rest } = kind === "gather" ? writeGathered(M, k, v, p, cfg, pad, at, hook)
        : writePooled(M, n, Emem, p, cfg, pad, at, hook);
      Object.assign(look, rest, { write: from });
      after = look.after;
    }
  }
  if (idle) return { x: null, after, look };
  const y = found ? sum(x, a, found) : sum(x, a);
  return { x: sum(y, feedForward(rmsnorm(y, p["ff.g"]), p)), after, look };
}

// ---------------------------------------------------------------------------------------------- segment, story, answer

/** Segment s: token ids and banks -> the banks after it, what each memory did, and the last token's logits if asked. */
function segment(model, ids, banks, { s, pad, last }, hook) {
  const { cfg, params } = model, W = params["embed.W"], after = [], looks = [];
  let x = matrix(ids.length, cfg.D);
  ids.forEach((id, t) => rowOf(x, t).set(rowOf(W, id).map((a) => a * Math.sqrt(cfg.D))));
  banks.forEach((bank, i) => {
    const at = { block: i, segment: s }, M = bank && hook.bank(bank, at);
    const how = { pad, kind: cfg.memory[i], write: !last && hook.writes(at), idle: !last && i === cfg.L - 1, at };
    const found = block(x, M, model.blocks[i], cfg, how, hook);
    x = found.x;
    after.push(found.after);
    looks.push(found.look);
  });
  if (!last) return { after, looks };
  const y = rmsnorm(matrix(1, cfg.D, rowOf(x, x.rows - 1)), params["norm.g"]);
  return { after, looks, logits: (cfg.tied ? linear(W, matrix(cfg.D, 1, y.v)) : linear(y, params["head.W"])).v };
}

/** The banks before the first segment: the first N rows of the identity, null where a block has no memory. */
function firstBanks({ cfg: { L, N, D, memory } }) {
  const identity = matrix(N, D);
  for (let n = 0; n < N; n++) identity.v[n * D + n] = 1;
  return Array.from({ length: L }, (_, i) => (memory[i] ? identity : null));
}

/** Where the last segment of a story starts. */
const lastStart = (ids, { T }) => Math.floor((ids.length - 1) / T) * T;

/** Read all segments but the last one -> the banks that the last one reads, and looks[s][block]. */
function readStory(model, ids, pad, hook = NO_HOOK) {
  const { T } = model.cfg, looks = [];
  let banks = firstBanks(model);
  for (let s = 0; s * T < lastStart(ids, model.cfg); s++) {
    const read = segment(model, ids.slice(s * T, (s + 1) * T), banks, { s, pad: s ? 0 : pad, last: false }, hook);
    banks = read.after;
    looks.push(read.looks);
  }
  return { banks, looks };
}

/** Answer from the last segment and the banks that it reads: the likeliest token each time, at most `answerLen` of them.
 *  -> { looks of that segment, tokens, chances: the probabilities of all words for each token of the answer } */
function answer(model, ids, banks, { pad, answerLen, end }, hook = NO_HOOK) {
  const start = lastStart(ids, model.cfg), tokens = [], chances = [];
  let looks;
  while (tokens.length < answerLen && tokens.at(-1) !== end) {
    const how = { s: start / model.cfg.T, pad: start ? 0 : pad, last: true };
    const said = segment(model, [...ids.slice(start), ...tokens], banks, how, hook);
    const top = Math.max(...said.logits), odds = said.logits.map((z) => Math.exp(z - top));
    const total = odds.reduce((all, o) => all + o, 0);
    looks = said.looks;
    chances.push(odds.map((o) => o / total));
    tokens.push(said.logits.indexOf(top));
  }
  return { looks, tokens, chances };
}

// ---------------------------------------------------------------------------------------------------------- operations

const NO_HOOK = { bank: (M) => M, off: () => [], gate: (name, values) => values, writes: () => true };

/** A hook that carries out operations. Each names a block, or null for every block, and is one of
 *  { do: "off", slot }  { do: "freeze", from }  { do: "gate", name, value }  { do: "swap", slot, other, from } */
function operate(operations) {
  const list = (kind, at) => operations.filter((o) => o.do === kind && (o.block === null || o.block === at.block));
  return {
    off: (at) => list("off", at).map((o) => o.slot),     // nobody reads these slots; they are still written
    writes: (at) => !list("freeze", at).some((o) => at.segment >= o.from),
    gate: (name, values, at) => list("gate", at).filter((o) => o.name === name)
      .reduce((before, o) => each(before, () => o.value), values),
    bank: (M, at) => list("swap", at).filter((o) => o.from === at.segment).reduce((before, { slot, other }) => {
      const swapped = each(before, (m) => m);
      rowOf(swapped, slot).set(rowOf(before, other));
      rowOf(swapped, other).set(rowOf(before, slot));
      return swapped;
    }, M),
  };
}

/** The model from what explore.py wrote: { cfg, shapes: [[name, [rows, cols]]], weights: float32 in base64 }. */
function loadModel({ cfg, shapes, weights }) {
  const numbers = new Float32Array(Uint8Array.from(atob(weights), (c) => c.charCodeAt(0)).buffer);
  const params = {}, blocks = Array.from({ length: cfg.L }, () => ({}));
  let from = 0;
  for (const [name, shape] of shapes) {
    const [rows, cols] = shape.length === 1 ? [1, shape[0]] : shape;
    params[name] = matrix(rows, cols, Float64Array.from(numbers.subarray(from, from += rows * cols)));
    const [, i, short] = name.match(/^blocks\.(\d+)\.(.*)$/) ?? [];
    if (short) blocks[i][short] = params[name];
  }
  return { cfg: { ...cfg, K: cfg.D / cfg.H }, params, blocks };
}
