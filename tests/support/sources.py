"""Sources that `tinylm2 import` reads, as bytes: a Llama's folder, an exported LM2's, a GGUF file. Nothing but this
library and NumPy writes them, so the parts of each can be bent before they are put together.
"""

import json
import struct
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from tests.support import small
from tinylm2.data import word_tokenizer
from tinylm2.interop import llama
from tinylm2.interop.export_model import export_model
from tinylm2.interop.import_model import settings_of
from tinylm2.model import Config
from tinylm2.training.trained_model import TrainedModel

END, TEXT, WHOLE, FLOAT, LIST = "<|end|>", 8, 4, 6, 9    # and the types of a GGUF's values
ALPHABET = [*map(chr, range(33, 127)), *map(chr, range(161, 173)), *map(chr, range(174, 324))]        # of ByteLevel


@cache
def folder(memory):
    """name -> bytes of a folder: `export`'s of an LM2, or a plain Llama's from elsewhere where memory is "none"."""
    words = word_tokenizer()
    cfg = Config(V=max(words.size, len(ALPHABET) + 1), memory=memory, D=8, L=1, H=2, G=1, F=6, N=2, T=8)
    model = TrainedModel(settings_of(cfg, 0), cfg, small.params(cfg, "float32"), words, 1)
    with tempfile.TemporaryDirectory() as home:
        export_model(model, home)
        found = {path.name: path.read_bytes() for path in Path(home).iterdir()}
    if memory == "none":
        config = json.loads(found["config.json"])
        del config["tinylm2"], found["tokenizer_config.json"]
        found.pop("tinylm2.safetensors", None)
        found["config.json"] = json.dumps(config | {"eos_token_id": len(ALPHABET)}).encode()
        found["tokenizer.json"] = json.dumps(tokenizer()).encode()
    return found


def tokenizer():
    """A tokenizer.json without merges: every byte is a token."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    end = {"id": len(ALPHABET), "content": END, "single_word": False, "lstrip": False, "rstrip": False,
           "normalized": False, "special": True}
    return {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": level,
            "added_tokens": [end], "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate([*ALPHABET, END])}, "merges": [],
                      "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}}


def header_of(raw):
    """(header, numbers) of a safetensors file."""
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8:8 + length]), raw[8 + length:]


def safetensors(header, numbers, length=None):
    """A safetensors file of any header; length: what it says of the header's length."""
    text = json.dumps(header).encode("utf-8", "replace")
    return struct.pack("<Q", len(text) if length is None else length) + text + numbers


@cache
def gguf_parts():
    """(settings, tensors) of a GGUF file: key -> value, name -> array, of the Llama above."""
    D, H, G, F, T, L = 8, 2, 1, 6, 8, 1
    tokens = [*ALPHABET, END]
    cfg = Config(V=len(tokens), memory="none", N=1, D=D, L=L, H=H, G=G, F=F, T=T)
    settings = {"general.architecture": "llama", "llama.context_length": T, "llama.embedding_length": D,
                "llama.block_count": L, "llama.feed_forward_length": F, "llama.attention.head_count": H,
                "llama.attention.head_count_kv": G, "llama.rope.freq_base": 10000.0,
                "llama.attention.layer_norm_rms_epsilon": 1e-5, "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens,
                "tokenizer.ggml.token_type": [1] * len(ALPHABET) + [3], "tokenizer.ggml.merges": [],
                "tokenizer.ggml.eos_token_id": len(ALPHABET)}
    rng = np.random.default_rng(0)
    return settings, {name: rng.standard_normal(shape).astype("<f4") for name, shape in
                      llama.names(cfg, llama.GGUF).values()}


def gguf(settings, tensors, counts=None, entry=None):
    """A GGUF file. counts: other numbers of tensors and settings than there are; entry: (name, axes, shape, kind,
    offset) of a tensor that is not there."""
    head, body = b"", b""
    for key, value in settings.items():
        head += _text(key) + _value(value)
    for name, x in tensors.items():
        head += _text(name) + struct.pack(f"<I{x.ndim}QIQ", x.ndim, *x.shape[::-1], 0, len(body))
        body += x.tobytes() + b"\0" * (-x.nbytes % 32)
    if entry is not None:
        name, shape, kind, offset = entry
        head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    many = (len(tensors) + (entry is not None), len(settings)) if counts is None else counts
    head = b"GGUF" + struct.pack("<IQQ", 3, *many) + head
    return head + b"\0" * (-len(head) % 32) + body


def _text(text):
    raw = str(text).encode("utf-8", "replace")
    return struct.pack("<Q", len(raw)) + raw


def _value(value):
    """The value with its type; whatever has none is written as text."""
    if isinstance(value, list):
        kind = TEXT if any(isinstance(one, str) for one in value) or not value else WHOLE
        return struct.pack("<IIQ", LIST, kind, len(value)) + b"".join(_bare(kind, one) for one in value)
    kind = FLOAT if isinstance(value, float) else WHOLE if isinstance(value, int) else TEXT
    return struct.pack("<I", kind) + _bare(kind, value)


def _bare(kind, value):
    if kind == WHOLE:
        return struct.pack("<I", int(value) % 2**32 if isinstance(value, int | bool) else 0)
    if kind == FLOAT:
        return np.float32(value).tobytes()
    return _text(value)
