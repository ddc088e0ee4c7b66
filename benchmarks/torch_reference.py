"""What tinylm2 is measured against: the same training step in PyTorch eager, with all that PyTorch has fused for it.

Fused are attention, RMSNorm, the cross-entropy, the norm of the gradients and AdamW. It computes what tinylm2 computes
and no more, only the rows that an answer needs, and where there was a choice the faster one on a CPU was taken. With
`compiled` the forward and backward passes are what torch.compile makes of them; RoPE is then written with real numbers,
for its compiler leaves complex ones to eager.
tests/support/torch_reference.py is another one, written to be plainly right; tests/test_benchmarks.py compares this one
with tinylm2, loss after loss.
"""

import torch
import torch.nn.functional as F

from tinylm2.memories import lm2


def training_step(params, batch, *, cfg, lr, device="cpu", compiled=False):
    """A function that trains one step on `batch` and gives its loss, from host copies of `params` (by name)."""
    p = {name: torch.tensor(W, device=device, requires_grad=True) for name, W in params.items()}
    blocks = [{name.split(".", 2)[2]: W for name, W in p.items() if name.startswith(f"blocks.{i}.")}
              for i in range(cfg.L)]
    ids, targets = (torch.tensor(x, device=device) for x in (batch.ids, batch.targets[:, -batch.last:]))
    turn = turns(cfg.T + 1, cfg.K).to(device)
    turn = torch.view_as_real(turn) if compiled else turn
    groups = [{"params": [W for W in p.values() if W.ndim > 1], "weight_decay": 0.01},
              {"params": [W for W in p.values() if W.ndim == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)

    def loss_of(ids, targets):
        return F.cross_entropy(story(p, blocks, ids, turn, cfg, batch.last).flatten(0, 1), targets.flatten())

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def step():
        optimizer.zero_grad()
        loss = loss_of(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(p.values(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def story(p, blocks, ids, turn, cfg, last):
    """Logits of the last `last` positions (B, last, V)."""
    start = torch.eye(cfg.N, cfg.D, device=ids.device).expand(len(ids), -1, -1)
    banks = [start if memory is lm2 else None for memory in cfg.memories[:cfg.L]]
    segments = ids.split(cfg.T, dim=1)
    for s, segment in enumerate(segments):
        final = s == len(segments) - 1
        x = F.embedding(segment, p["embed.W"]) * cfg.D**0.5
        for i in range(cfg.L):
            rows = cfg.T if i < cfg.L - 1 else last if final else 0
            x, banks[i] = block(blocks[i], x, banks[i], turn, cfg, rows, write=not final)
    return norm(x, p["norm.g"]) @ p["head.W"]


def block(p, x, M, turn, cfg, rows, write):
    B, T, D = x.shape
    H, K = cfg.H, cfg.K                                  # here every head has keys of its own
    n = norm(x, p["attn.g"])
    Wq, Wk, Wv = p["attn.Wqkv"].split(H * K, dim=1)      # products of their own, here too: the faster way
    k = rotate((n @ Wk).view(B, T, H, K), turn[:T]).transpose(1, 2)
    v = (n @ Wv).view(B, T, H, K).transpose(1, 2)
    Mn = None if M is None else norm(M, p["mem.g"])
    y = x[:, :0]
    if rows:
        q = rotate((n[:, T - rows:] @ Wq).view(B, rows, H, K), turn[T - rows:T]).transpose(1, 2)
        y = x[:, T - rows:] + attend(q, k, v, causal=True) @ p["attn.Wo"]
        if M is not None:
            read = attend(*(split(z, H) for z in (n[:, T - rows:] @ p["mem.Wq"], Mn @ p["mem.Wk"], Mn @ p["mem.Wv"])))
            y = y + torch.sigmoid(torch.addmm(p["mem.bout"], read.flatten(0, 1), p["mem.Wout"]).view_as(read)) * read
        h, (Wgate, Wup) = norm(y, p["ff.g"]), p["ff.Wgu"].chunk(2, dim=1)
        y = y + (F.silu(h @ Wgate) * (h @ Wup)) @ p["ff.Wdown"]
    if M is not None and write:
        q = rotate((Wq[:cfg.N] * D**0.5).view(1, cfg.N, H, K), turn[T:T + 1]).transpose(1, 2).expand(B, -1, -1, -1)
        R = attend(q, k, v) @ p["attn.Wo"]
        gin = torch.sigmoid(R @ p["mem.Win"] + p["mem.bin"])
        gforget = torch.sigmoid(R @ p["mem.Wforget"] + p["mem.bforget"])
        M = gin * torch.tanh(R) + gforget * M
    return y, M


def norm(x, g):
    return F.rms_norm(x, g.shape, g, eps=1e-5)


def split(x, H):
    """(B, T, D) -> (B, H, T, K)."""
    return x.unflatten(-1, (H, -1)).transpose(1, 2)


def attend(q, k, v, causal=False):
    """q (B, H, T, K), k and v (B, H, U, K) -> (B, T, H K). Fewer causal queries than keys are the last ones."""
    T, U = q.shape[2], k.shape[2]
    mask = torch.ones(T, U, dtype=torch.bool, device=q.device).tril(U - T) if causal and T < U else None
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal and T == U)
    return y.transpose(1, 2).flatten(2)


def turns(T, K):
    """e^(j p w_i), (T, 1, K/2)."""
    angle = torch.arange(T)[:, None, None] * 10_000.0 ** (-torch.arange(0, K, 2) / K)
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x, turn):
    """RoPE, x (B, T, H, K): a pair is one complex number, a turn one complex product; or both as cosine and sine."""
    pairs = x.unflatten(-1, (-1, 2))
    if turn.is_complex():
        return torch.view_as_real(torch.view_as_complex(pairs) * turn).flatten(-2)
    (a, b), (cos, sin) = pairs.unbind(-1), turn.unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
