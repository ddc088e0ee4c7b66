"""LM2 in PyTorch, one file that Hugging Face's AutoModelForCausalLM loads (trust_remote_code=True).

A Llama whose blocks carry a memory (Kang et al. 2025, arXiv 2502.06049), written from tinylm2's docs/MODEL.md, whose
letters it uses: B stories, T tokens of a segment, N slots, D hidden size, H heads, G key/value heads, K head size, F
feed-forward, V tokens, L blocks. Parameters have tinylm2's names and its order of axes: y = x @ W.

    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    out = model(input_ids, labels=input_ids)                     # any length: it is cut into segments of config.segment
    out.loss.backward()
    first = model(input_ids[:, :256], return_banks=True)         # the banks are a state that you may carry on yourself
    second = model(input_ids[:, 256:], banks=first.banks)

Positions begin at 0 in each segment, and the banks are the only way from one segment to the next. All tokens of a
segment read the banks as they were at its start, and the write comes after its last token: strictly causal.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import ModelOutput


class LM2Config(PretrainedConfig):
    """Sizes. memory_blocks: which blocks carry a memory. rope_llama3: (factor, low, high, length), or None."""

    model_type = "tinylm2"

    def __init__(self, vocab_size: int = 204, hidden_size: int = 32, num_hidden_layers: int = 2,
                 num_attention_heads: int = 2, num_key_value_heads: int = 2, head_dim: int = 16,
                 intermediate_size: int = 78, slots: int = 16, segment: int = 32, memory_blocks: Any = (0, 1),
                 rope_base: float = 10000.0, rope_llama3: Any = None, norm_eps: float = 1e-5,
                 tie_word_embeddings: bool = False, **others: Any) -> None:
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        self.num_attention_heads, self.num_key_value_heads = num_attention_heads, num_key_value_heads
        self.head_dim, self.intermediate_size, self.slots, self.segment = head_dim, intermediate_size, slots, segment
        self.memory_blocks, self.rope_base, self.norm_eps = list(memory_blocks), rope_base, norm_eps
        self.rope_llama3 = None if rope_llama3 is None else list(rope_llama3)
        super().__init__(tie_word_embeddings=tie_word_embeddings, **others)


@dataclass
class LM2Output(ModelOutput):
    """loss (), where labels were given; logits (B, any, V); banks: one (B, N, D) per block with a memory."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    banks: tuple | None = None


def rmsnorm(x: torch.Tensor, g: torch.Tensor, eps: float) -> torch.Tensor:
    """y = g x / sqrt(mean(x^2) + eps), over the last axis."""
    return g * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def turns(positions: torch.Tensor, config: Any, dtype: torch.dtype) -> tuple:
    """cos and sin (T, 1, K/2) of the angles p w_i, w_i = base^(-2i/K), worked out in double precision."""
    K = config.head_dim
    w = config.rope_base ** (-torch.arange(0, K, 2, dtype=torch.float64, device=positions.device) / K)
    if config.rope_llama3 is not None:                   # slow pairs turn slower by the factor, fast ones stay
        factor, low, high, length = config.rope_llama3
        kept = ((length * w / (2 * torch.pi) - low) / (high - low)).clamp(0, 1)
        w = w * (kept + (1 - kept) / factor)
    angles = (positions.double()[:, None] * w)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the pairs (2i, 2i+1) of each head: x (B, T, H, K)."""
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: Any = None, causal: bool = False) -> torch.Tensor:
    """softmax(q k' / sqrt(K)) v: q (B, T, H, K), k and v (B, U, G, K) -> (B, T, H K). Query head h uses key head
    h // (H/G). seen: which keys each query may see, (B or 1, 1, T, U)."""
    repeat = q.shape[2] // k.shape[2]
    q, k, v = q.transpose(1, 2), *(x.repeat_interleave(repeat, 2).transpose(1, 2) for x in (k, v))
    return functional.scaled_dot_product_attention(q, k, v, seen, is_causal=causal).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Causal self-attention inside one segment; Wqkv has the columns of Wq, Wk and Wv side by side."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        D, H, G, K = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.config, self.sizes = config, (H * K, G * K, G * K)
        self.g = nn.Parameter(torch.empty(D))
        self.Wqkv = nn.Parameter(torch.empty(D, (H + 2 * G) * K))
        self.Wo = nn.Parameter(torch.empty(H * K, D))

    def forward(self, n: torch.Tensor, angles: tuple, seen: Any) -> tuple:
        """n (B, T, D) -> a (B, T, D), and the segment's rotated keys and values (B, T, G, K)."""
        K = self.config.head_dim
        q, k, v = (x.unflatten(-1, (-1, K)) for x in (n @ self.Wqkv).split(self.sizes, -1))
        q, k = rope(q, *angles), rope(k, *angles)
        return attend(q, k, v, seen, causal=seen is None) @ self.Wo, k, v


class Memory(nn.Module):
    """LM2's memory: tokens read the bank by cross-attention, slots write it by gates (equations 1 to 6)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        D = config.hidden_size
        self.config = config
        for name in ("Wq", "Wk", "Wv", "Wout", "Win", "Wforget"):
            setattr(self, name, nn.Parameter(torch.empty(D, D)))
        for name in ("g", "bout", "bin", "bforget"):
            setattr(self, name, nn.Parameter(torch.empty(D)))

    def first(self, B: int) -> torch.Tensor:
        """The bank before the first segment: the first N rows of the identity, (B, N, D)."""
        N, D = self.config.slots, self.config.hidden_size
        return torch.eye(N, D, dtype=self.g.dtype, device=self.g.device).expand(B, N, D)

    def read(self, n: torch.Tensor, M: torch.Tensor) -> torch.Tensor:
        """What the tokens find, behind the output gate: gout * Emem (B, T, D)."""
        heads = (self.config.num_attention_heads, -1)
        Mn = rmsnorm(M, self.g, self.config.norm_eps)
        q, k, v = (x.unflatten(-1, heads) for x in (n @ self.Wq, Mn @ self.Wk, Mn @ self.Wv))
        Emem = attend(q, k, v)                                                           # (1)
        return torch.sigmoid(Emem @ self.Wout + self.bout) * Emem                        # (2), and its part of (3)

    def write(self, M: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attention: Attention, real: Any) -> torch.Tensor:
        """The next bank. Each slot is one more query right after the last token: R takes the place of token rows."""
        (N, D), (B, T), K = M.shape[1:], k.shape[:2], self.config.head_dim
        Wq = attention.Wqkv[:N, :attention.sizes[0]]     # address Wq: the address is sqrt(D) times rows of the identity
        after = turns(torch.tensor([T], device=k.device), self.config, k.dtype)
        q = rope((Wq * D**0.5).unflatten(-1, (-1, K))[None], *after).expand(B, -1, -1, -1)
        R = attend(q, k, v, None if real is None else real[:, None, None].expand(-1, 1, N, -1)) @ attention.Wo
        gin = torch.sigmoid(R @ self.Win + self.bin)                                     # (4)
        gforget = torch.sigmoid(R @ self.Wforget + self.bforget)                         # (5)
        M_next = gin * torch.tanh(R) + gforget * M                                       # (6)
        return M_next if real is None else torch.where(real.any(1)[:, None, None], M_next, M)


class FeedForward(nn.Module):
    """(silu(h Wgate) * (h Wup)) Wdown; Wgu has the columns of Wgate and Wup side by side."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        D, F = config.hidden_size, config.intermediate_size
        self.g = nn.Parameter(torch.empty(D))
        self.Wgu, self.Wdown = nn.Parameter(torch.empty(D, 2 * F)), nn.Parameter(torch.empty(F, D))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        gate, up = (h @ self.Wgu).chunk(2, -1)
        return (functional.silu(gate) * up) @ self.Wdown


class Block(nn.Module):
    """Attend, read the memory, feed forward; and the write, which sees the old bank only."""

    def __init__(self, config: Any, memory: bool) -> None:
        super().__init__()
        self.eps, self.attn, self.ff = config.norm_eps, Attention(config), FeedForward(config)
        self.mem = Memory(config) if memory else None

    def forward(self, x: torch.Tensor, M: Any, angles: tuple, seen: Any, real: Any, write: bool) -> tuple:
        n = rmsnorm(x, self.attn.g, self.eps)
        a, k, v = self.attn(n, angles, seen)
        x = x + a
        if self.mem is not None:
            x = x + self.mem.read(n, M)                                                  # (3)
            M = self.mem.write(M, k, v, self.attn, real) if write else M
        return x + self.ff(rmsnorm(x, self.ff.g, self.eps)), M


class Table(nn.Module):
    """One matrix W, as the embedding and the head have it."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(shape))


class Gain(nn.Module):
    """The gain of the last norm."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.empty(size))


class LM2ForCausalLM(PreTrainedModel, GenerationMixin):
    """Tokens to logits, segment by segment."""

    config_class = LM2Config
    _no_split_modules = ["Block"]
    _supports_sdpa = True

    def __init__(self, config: LM2Config) -> None:
        super().__init__(config)
        V, D = config.vocab_size, config.hidden_size
        self.embed, self.norm = Table(V, D), Gain(D)
        self.blocks = nn.ModuleList([Block(config, i in config.memory_blocks) for i in range(config.num_hidden_layers)])
        self.head = None if config.tie_word_embeddings else Table(D, V)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fresh parameters as docs/MODEL.md lists them: matrices 1/sqrt(rows), the residual's divided by sqrt(2 L)."""
        starts = {"bout": -1.0, "bin": 0.0, "bforget": 3.0, "g": 1.0}
        for name, W in module.named_parameters(recurse=False):
            if name in starts:
                W.fill_(starts[name])
            else:
                rows = self.config.hidden_size if name == "W" else W.shape[0]
                residual = (2 * self.config.num_hidden_layers) ** 0.5 if name in ("Wo", "Wdown") else 1
                W.normal_(0, rows**-0.5 / residual)

    def first_banks(self, B: int) -> tuple:
        """The banks before the first segment."""
        return tuple(block.mem.first(B) for block in self.blocks if block.mem is not None)

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None, labels: Any = None, banks: Any = None,
                return_banks: bool = False, **unused: Any) -> LM2Output:
        """input_ids (B, any) -> logits (B, any, V), and with labels the mean loss of the next token (-100: left out).

        attention_mask (B, any): 0 marks padding, which no token and no slot attends to. banks: what the first segment
        reads, by default the first banks. return_banks: the last segment is written, too, and the banks come back.
        """
        banks = self.first_banks(len(input_ids)) if banks is None else tuple(banks)
        mask = None if attention_mask is None or bool(attention_mask.all()) else attention_mask.bool()
        T, logits = self.config.segment, []
        starts = range(0, input_ids.shape[1], T)
        for start in starts:
            part, real = (None if x is None else x[:, start:start + T] for x in (input_ids, mask))
            write = return_banks or start != starts[-1]
            x, banks = self.segment(part, banks, real, write)
            logits.append(x)
        y, loss = torch.cat(logits, 1), None
        if labels is not None:
            loss = functional.cross_entropy(y[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
        return LM2Output(loss=loss, logits=y, banks=banks if return_banks else None)

    def segment(self, ids: torch.Tensor, banks: tuple, real: Any, write: bool) -> tuple:
        """One segment of at most config.segment tokens: logits, and the banks that the next one reads."""
        T, left, after = ids.shape[1], list(banks), []
        x = functional.embedding(ids, self.embed.W) * self.config.hidden_size**0.5
        angles, seen = turns(torch.arange(T, device=ids.device), self.config, x.dtype), None
        if real is not None:                             # a padded query sees itself, or its softmax would be empty
            own = torch.eye(T, dtype=torch.bool, device=ids.device)
            seen = ((real[:, None] | own) & torch.ones_like(own).tril())[:, None]
        for block in self.blocks:
            M = left.pop(0) if block.mem is not None else None
            x, M = block(x, M, angles, seen, real, write)
            after += [] if M is None else [M]
        x = rmsnorm(x, self.norm.g, self.config.norm_eps)
        return x @ (self.embed.W.T if self.head is None else self.head.W), tuple(after)

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, attention_mask: Any = None, **unused: Any) -> dict:
        """`generate` computes the whole text at every step: the banks are no cache of keys and values."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}
