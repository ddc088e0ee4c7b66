"""A run as a Hugging Face folder: a plain Llama without a memory, and with LM2's the model of modeling_lm2.py.

Beside what transformers reads, config.json has an entry "tinylm2" with the run's settings, so that the import of an
exported folder is the run, bit for bit. A Llama's embedding is embed.W sqrt(D), which rounds: where dividing again does
not give embed.W back, tinylm2.safetensors says by how many last places it is off.
"""

import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from tinylm2.backend import to_host
from tinylm2.data import PublishedTokenizer
from tinylm2.data.tokenizer import END, PAD
from tinylm2.errors import BadInput
from tinylm2.files import replacing
from tinylm2.interop import llama
from tinylm2.interop.import_model import OFFSETS, OWN, SINGLE_FILE
from tinylm2.interop.tensors import write_safetensors
from tinylm2.model import Config

CODE = "modeling_lm2.py"
WRITTEN = ("config.json", SINGLE_FILE, "tokenizer.json", "tokenizer_config.json", CODE, OFFSETS)


def export_model(model: Any, folder: Any, *, overwrite: bool = False) -> Path:
    """Write a TrainedModel as a folder for transformers.  BadInput where its memory has no PyTorch code, or where the
    folder holds a model already and may not be overwritten."""
    folder, cfg = Path(folder), model.cfg
    if cfg.memory not in ("none", Config.memory):
        raise BadInput(f"--to: found a run with memory {cfg.memory}, expected {Config.memory} or none")
    held = [name for name in WRITTEN if (folder / name).exists()]
    if held and not overwrite:
        raise BadInput(f"{folder}: found {', '.join(held)}, expected an empty folder; --overwrite replaces them")
    params = {name: to_host(W) for name, W in model.params.items()}
    tensors = params if any(cfg.memories) else llama.tensors_of(params, cfg)
    offsets = {} if any(cfg.memories) else offsets_of(params, tensors, cfg)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in held:
            (folder / name).unlink()
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written ({error.strerror})") from None
    write_safetensors(folder / SINGLE_FILE, tensors, {"format": "pt"})
    if offsets:
        write_safetensors(folder / OFFSETS, offsets)
    _write(folder / "tokenizer.json", model.tokenizer.to_json())
    special = getattr(model.tokenizer, "special", {"end": END, "pad": PAD})
    _write(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": special["end"], "pad_token": special["pad"],
        "model_max_length": 2**31 - 1 if any(cfg.memories) else cfg.T})
    if any(cfg.memories):
        _write(folder / CODE, files("tinylm2.interop").joinpath(CODE).read_text(encoding="utf-8"))
    _write(folder / "config.json", config_of(model))     # last: without it the folder is no model
    return folder


def config_of(model: Any) -> dict:
    """config.json: the sizes in transformers' words, and the run's own under "tinylm2"."""
    cfg, tokenizer = model.cfg, model.tokenizer
    found = {"vocab_size": cfg.V, "hidden_size": cfg.D, "num_hidden_layers": cfg.L, "num_attention_heads": cfg.H,
             "num_key_value_heads": cfg.G, "head_dim": cfg.K, "intermediate_size": cfg.F,
             "tie_word_embeddings": cfg.tied, "eos_token_id": tokenizer.end, "pad_token_id": tokenizer.pad,
             "bos_token_id": None, "torch_dtype": str(model.params.buffer.dtype)}
    own = {"config": asdict(cfg), "settings": asdict(model.settings), "answer_len": model.answer_len}
    if isinstance(tokenizer, PublishedTokenizer):
        own["special"] = tokenizer.special
    if any(cfg.memories):
        name = "LM2"
        found |= {"model_type": OWN, "slots": cfg.N, "segment": cfg.T, "rope_base": cfg.base, "norm_eps": cfg.eps,
                  "memory_blocks": [i for i, memory in enumerate(cfg.memories) if memory is not None],
                  "rope_llama3": cfg.scaling, "use_cache": False,
                  "auto_map": {"AutoConfig": "modeling_lm2.LM2Config",
                               "AutoModelForCausalLM": "modeling_lm2.LM2ForCausalLM"}}
    else:
        name = "Llama"
        scaling = cfg.scaling and {"rope_type": "llama3", **dict(zip(llama.LLAMA3, cfg.scaling, strict=True))}
        found |= {"model_type": "llama", "rms_norm_eps": cfg.eps, "rope_theta": cfg.base, "rope_scaling": scaling,
                  "max_position_embeddings": cfg.T, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
        if scaling:
            scaling["original_max_position_embeddings"] = int(cfg.scaling[-1])
    return found | {"architectures": [f"{name}ForCausalLM"], "tinylm2": own}


def offsets_of(params: dict, tensors: dict, cfg: Config) -> dict:
    """Our name -> how many last places (int8) the import of an exported tensor is off, where it is."""
    found = {}
    for part in ("embed.W", "norm.g") if cfg.tied else ("embed.W",):
        exported = tensors[llama.ENDS[part][llama.HF] + ".weight"]
        back = exported / cfg.D**0.5 if part == "embed.W" else exported * cfg.D**0.5
        places = llama.as_places(params[part]) - llama.as_places(back)
        if places.any():
            found[part] = places.astype(np.int8)
    return found


def _write(path, value):
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as file:
        file.write(text.encode())
