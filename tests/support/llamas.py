"""Tiny random Llamas, made and saved by transformers: what the import and the export are held against."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

torch = pytest.importorskip("torch", reason="torch computes what the import is compared with")
transformers = pytest.importorskip("transformers", reason="transformers writes the folders that are imported")

TEXT = "Mary moved to the garden. John went to the office, it's 1984. Where is Mary? Zoë"
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
VARIANTS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "one key head": {"num_key_value_heads": 1},
    "llama3": {"rope_parameters": LLAMA3, "max_position_embeddings": 256},
    "another base": {"rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}, "rms_norm_eps": 1e-2},
    "wide heads": {"head_dim": 16},
}


def tokenizer():
    """Byte-level pairs as Llama 3's, of a few words."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.train_from_iterator([TEXT], trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|begin|>", "<|end|>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return library


def llama(seed=0, **changes):
    """A LlamaForCausalLM whose every parameter is random, gains too."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**{
        "vocab_size": 304, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 2, "intermediate_size": 40, "max_position_embeddings": 64, "eos_token_id": 1,
        "bos_token_id": 0, "attn_implementation": "eager", **changes})
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, W in model.named_parameters():
            W.copy_(1 + 0.2 * torch.randn_like(W) if W.ndim == 1 else torch.randn_like(W) * (
                0.5 if "embed" in name else W.shape[1] ** -0.5))
    return model


def folder(path, model, *, shard="1GB", dtype=None):
    """Save a model with its tokenizer as Hugging Face's folder."""
    if dtype:
        model = model.to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(path, max_shard_size=shard)
    Path(path, "tokenizer.json").write_text(tokenizer().to_str(), encoding="utf-8")
    return Path(path)


def read(path):
    """The model of a folder, as float32, as transformers reads it."""
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def logits(model, ids):
    """The model's logits, as float32 of NumPy."""
    with torch.no_grad():
        return model.float()(torch.tensor(np.asarray(ids))).logits.numpy()


def edited(path, **changes):
    """Change entries of config.json; None takes one away."""
    file = Path(path) / "config.json"
    found = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))
    return path
