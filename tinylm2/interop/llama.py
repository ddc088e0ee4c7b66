"""Llama's weights as this library keeps them: the settings in three spellings, the names, the order of rows.

Three things differ. (1) Matrices are stored (out, in) there and (in, out) here. (2) This library multiplies the
embedding by sqrt(D), so embed.W is their embedding / sqrt(D); where the head is tied, norm.g makes up for it. (3) RoPE
turns the pairs (2i, 2i+1) of a head here, and Hugging Face's turns (i, i + K/2): rows of q and k are put in another
order, which changes no product of a query with a key. GGUF has them in pairs already.
"""

from typing import Any

import numpy as np

from tinylm2 import ops
from tinylm2.errors import BadInput
from tinylm2.model import Config

BLOCK = {                                                # ours: theirs in Hugging Face, and in GGUF
    "attn.g": ("input_layernorm", "attn_norm"), "q": ("self_attn.q_proj", "attn_q"),
    "k": ("self_attn.k_proj", "attn_k"), "v": ("self_attn.v_proj", "attn_v"),
    "attn.Wo": ("self_attn.o_proj", "attn_output"),
    "ff.g": ("post_attention_layernorm", "ffn_norm"), "gate": ("mlp.gate_proj", "ffn_gate"),
    "up": ("mlp.up_proj", "ffn_up"), "ff.Wdown": ("mlp.down_proj", "ffn_down"),
}
ENDS = {"embed.W": ("model.embed_tokens", "token_embd"), "norm.g": ("model.norm", "output_norm"),
        "head.W": ("lm_head", "output")}
HF, GGUF = 0, 1
MOST = {"V": 2**24, "D": 16384, "L": 1024, "H": 16384, "G": 16384, "F": 131072, "T": 2**24, "K": 16384}
LONGEST = 65536                                          # tokens per segment
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def names(cfg: Config, spelling: int) -> dict:
    """(block or None, our part) -> (their name, its shape there) of every tensor."""
    D, F, H, G, K = cfg.D, cfg.F, cfg.H, cfg.G, cfg.K
    shapes = {"attn.g": (D,), "ff.g": (D,), "q": (H * K, D), "k": (G * K, D), "v": (G * K, D), "attn.Wo": (D, H * K),
              "gate": (F, D), "up": (F, D), "ff.Wdown": (D, F), "embed.W": (cfg.V, D), "norm.g": (D,),
              "head.W": (cfg.V, D)}
    prefix = ("model.layers.", "blk.")[spelling]
    found = {(None, part): (theirs[spelling] + ".weight", shapes[part]) for part, theirs in ENDS.items()
             if part != "head.W" or not cfg.tied}
    for i in range(cfg.L):
        found |= {(i, part): (f"{prefix}{i}.{theirs[spelling]}.weight", shapes[part]) for part, theirs in BLOCK.items()}
    return found


# -------------------------------------------------------------------------------------------------------- the settings


def config_of_folder(found: dict, path: Any) -> Config:
    """The Config of a Hugging Face config.json.  BadInput names what this library cannot represent."""
    def refuse(name, expected):
        raise BadInput(f"{path}: found {name} {str(found.get(name))[:60]!r}, expected {expected}")

    if found.get("model_type") != "llama":
        refuse("model_type", "'llama'")
    for name in ("attention_bias", "mlp_bias", "sliding_window", "quantization_config", "rope_interleaved"):
        if found.get(name):
            refuse(name, "none: it cannot be represented here")
    if found.get("hidden_act", "silu") != "silu":
        refuse("hidden_act", "'silu'")
    if found.get("partial_rotary_factor", 1) != 1:
        refuse("partial_rotary_factor", "1")
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        refuse("rope_scaling", "a type and its numbers")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise BadInput(f"{path}: found rope_scaling of type {str(kind)[:40]!r}, expected 'llama3' or none")
    H = found.get("num_attention_heads")
    return checked_config(path, {
        "V": found.get("vocab_size"), "D": found.get("hidden_size"), "L": found.get("num_hidden_layers"), "H": H,
        "G": H if found.get("num_key_value_heads") is None else found["num_key_value_heads"],
        "F": found.get("intermediate_size"), "T": found.get("max_position_embeddings", 2048),
        "K": found.get("head_dim"),
        "base": rope.get("rope_theta", found.get("rope_theta", 10000.0)), "eps": found.get("rms_norm_eps", 1e-6),
        "scaling": None if kind == "default" else tuple(rope.get(name) for name in LLAMA3),
        "tied": found.get("tie_word_embeddings", False)})


def config_of_gguf(file: Any) -> Config:
    """The Config of a GGUF file's settings.  BadInput names what this library cannot represent."""
    found = file.settings
    if found.get("general.architecture") != "llama":
        raise file.bad(f"found the architecture {str(found.get('general.architecture'))[:40]!r}", "'llama'")
    for name, plain in (("expert_count", 0), ("rope.scaling.type", "none"), ("attention.sliding_window", 0),
                        ("rope.scale_linear", 1.0)):
        if found.get("llama." + name, plain) != plain:
            raise file.bad(f"found llama.{name} {str(found['llama.' + name])[:40]!r}", f"{plain}: it is not known here")
    H, K = found.get("llama.attention.head_count"), found.get("llama.attention.key_length")
    if found.get("llama.attention.value_length", K) != K:
        raise file.bad("found values of another width than keys", "heads of one width")
    tokens = found.get("tokenizer.ggml.tokens")
    cfg = checked_config(file.path, {
        "V": found.get("llama.vocab_size", len(tokens) if isinstance(tokens, list) else None),
        "D": found.get("llama.embedding_length"), "L": found.get("llama.block_count"), "H": H,
        "G": found.get("llama.attention.head_count_kv", H), "F": found.get("llama.feed_forward_length"),
        "T": found.get("llama.context_length", 2048), "K": K, "base": found.get("llama.rope.freq_base", 10000.0),
        "eps": rounded(found.get("llama.attention.layer_norm_rms_epsilon", 1e-5)), "scaling": None,
        "tied": "output.weight" not in file.shapes})
    if found.get("llama.rope.dimension_count", cfg.K) != cfg.K:
        raise file.bad(f"found llama.rope.dimension_count {str(found['llama.rope.dimension_count'])[:20]}",
                       f"{cfg.K}: whole heads turn")
    return cfg


def rounded(x: Any) -> Any:
    """The shortest number that is the same float32: GGUF keeps 1e-5 as 9.999999747378752e-06."""
    return float(str(np.float32(x))) if type(x) is float else x


def checked_config(path: Any, letters: dict[str, Any]) -> Config:
    """The Config of these letters, each a plain number in its range."""
    K = letters.pop("K")
    for name, value in (letters | ({} if K is None else {"K": K})).items():
        if name in MOST and (type(value) is not int or not 1 <= value <= MOST[name]):
            raise BadInput(f"{path}: found {name} {str(value)[:40]}, expected a whole number from 1 to {MOST[name]}")
    for name in ("base", "eps"):
        if type(letters[name]) not in (int, float):
            raise BadInput(f"{path}: found {name} {str(letters[name])[:40]}, expected a number")
    if letters["scaling"] and not all(type(x) in (int, float) for x in letters["scaling"]):
        raise BadInput(f"{path}: found rope_scaling {str(letters['scaling'])[:80]}, expected numbers: "
                       f"{', '.join(LLAMA3)}")
    if type(letters["tied"]) is not bool:
        raise BadInput(f"{path}: found tie_word_embeddings {str(letters['tied'])[:40]}, expected true or false")
    plain = letters["D"] // letters["H"]
    try:
        numbers: dict[str, Any] = {name: float(letters[name]) for name in ("base", "eps")}
        return Config(**letters | numbers | {"T": min(letters["T"], LONGEST),
                                             "scaling": letters["scaling"] and tuple(map(float, letters["scaling"]))},
                      N=1, memory="none", head_dim=None if plain == K else K)
    except ValueError as error:
        raise BadInput(f"{path}: {error}") from None


def scaling_of(factors: Any, cfg: Config, bad: Any) -> tuple:
    """Llama 3's four numbers, from the factors of each pair that a GGUF file keeps instead.

    The file's makers work the factors out with the numbers of LLAMA3 and the model's own factor, which is the largest.
    """
    scaling = (float(factors.max()), *list(LLAMA3.values())[1:])
    x = np.zeros((1, 2, 1, cfg.K))
    x[..., ::2] = 1
    turned, plain = (ops.rope_forward(x, base=cfg.base, scaling=s)[0][0, 1, 0] for s in (scaling, None))
    angles, slow = (np.arctan2(y[1::2], y[::2]) for y in (plain, turned))
    if factors.shape != (cfg.K // 2,) or not np.allclose(angles / slow, factors, rtol=1e-4):
        raise bad("found rope_freqs.weight of another rule", "Llama 3's scaling, or none")
    return scaling


# -------------------------------------------------------------------------------------------------------- the weights


def check_tensors(cfg: Config, shapes: dict, spelling: int, path: Any) -> None:
    """BadInput where a tensor is missing, has another shape, or is one that this library has no place for."""
    expected = dict(names(cfg, spelling).values())
    for name, shape in expected.items():
        if name not in shapes:
            raise BadInput(f"{path}: found no tensor {name}, expected it, {list(shape)}")
        if tuple(shapes[name]) != shape:
            raise BadInput(f"{path}: {name} is {list(shapes[name])}, expected {list(shape)} as the settings say")
    known = {"lm_head.weight", "rope_freqs.weight"}      # of a tied head the copy, and what `scaling_of` reads
    odd = [name for name in shapes.keys() - expected.keys() - known if not name.endswith("rotary_emb.inv_freq")]
    if odd:
        raise BadInput(f"{path}: found the tensor {min(odd):.80}, expected none: it cannot be represented here")


def fill(params: dict, cfg: Config, read: Any, spelling: int, path: Any) -> None:
    """Write their weights into our parameters, one tensor at a time. read: their name -> array."""
    H, G, K, F, root = cfg.H, cfg.G, cfg.K, cfg.F, cfg.D**0.5
    for (i, part), (name, _) in names(cfg, spelling).items():
        x = read(name)
        if x.dtype == np.int8 or not np.isfinite(x.reshape(-1) @ x.reshape(-1)) and not np.isfinite(x).all():
            raise BadInput(f"{path}: {name} holds {'int8' if x.dtype == np.int8 else 'numbers that are not finite'}, "
                           "expected weights of a model that learned")
        if spelling == HF and part in ("q", "k"):
            x = paired(x, K)
        block = "" if i is None else f"blocks.{i}."
        if part in ("q", "k", "v"):
            first = {"q": 0, "k": H * K, "v": (H + G) * K}[part]
            params[block + "attn.Wqkv"][:, first:first + len(x)] = x.T
        elif part in ("gate", "up"):
            first = 0 if part == "gate" else F
            params[block + "ff.Wgu"][:, first:first + F] = x.T
        elif part == "embed.W":
            np.divide(x, root, out=params[part], casting="same_kind")
        elif part == "norm.g" and cfg.tied:
            np.multiply(x, root, out=params[part], casting="same_kind")
        else:
            params[block + part][...] = x.T              # of a vector the transpose is the vector


def paired(x: Any, K: int) -> Any:
    """Rows in halves (i, i + K/2) of each head -> rows in pairs (2i, 2i+1)."""
    return x.reshape(-1, 2, K // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def halved(x: Any, K: int) -> Any:
    """Back from `paired`."""
    return x.reshape(-1, K // 2, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def tensors_of(params: dict, cfg: Config) -> dict:
    """Hugging Face's name -> array: what `fill` would read; views where the order allows it."""
    H, G, K, F, root = cfg.H, cfg.G, cfg.K, cfg.F, cfg.D**0.5
    found = {}
    for (i, part), (name, _) in names(cfg, HF).items():
        block = "" if i is None else f"blocks.{i}."
        if part in ("q", "k", "v"):
            first, heads = {"q": (0, H), "k": (H * K, G), "v": ((H + G) * K, G)}[part]
            x = params[block + "attn.Wqkv"][:, first:first + heads * K].T
            found[name] = x if part == "v" else halved(x, K)
        elif part in ("gate", "up"):
            first = 0 if part == "gate" else F
            found[name] = params[block + "ff.Wgu"][:, first:first + F].T
        elif part == "embed.W":
            found[name] = params[part] * root
        elif part == "norm.g" and cfg.tied:
            found[name] = params[part] / root
        else:
            found[name] = params[block + part].T
    return found


def as_places(x: Any) -> Any:
    """Floating-point numbers as whole ones that count their last places: neighbours of one sign differ by one."""
    return np.ascontiguousarray(x).view(np.int64 if x.dtype == np.float64 else np.int32)
