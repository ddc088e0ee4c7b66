"""A published model as a run: its weights, its tokenizer, and a memory where one is asked for."""

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tinylm2.data import PublishedTokenizer, Tokenizer
from tinylm2.errors import BadInput
from tinylm2.flat import Flat
from tinylm2.interop import llama
from tinylm2.interop.gguf_file import GGUF
from tinylm2.interop.tensors import Safetensors
from tinylm2.interop.vocabulary import read_json, tokenizer_of_folder, tokenizer_of_gguf
from tinylm2.memories import MEMORIES
from tinylm2.model import Config, count_params, init_params, param_shapes
from tinylm2.training.settings import Settings
from tinylm2.training.trained_model import TrainedModel, machine_memory

INDEX, SINGLE_FILE = "model.safetensors.index.json", "model.safetensors"
OFFSETS = "tinylm2.safetensors"                          # beside a Llama that `export` wrote
OWN = "tinylm2"                                          # model_type of an exported LM2, and the run's entry everywhere
ANSWER = 16                                              # tokens kept free for an answer, at most


def import_model(source: Any, *, memory: str = "none", slots: int = 16, segment: int | None = None,
                 memory_blocks: Any = None, seed: int = 0) -> TrainedModel:
    """A Hugging Face Llama folder, a folder that `export` wrote, or a GGUF file as a TrainedModel.

    memory: a bank is added to each block (or to memory_blocks). It starts from `seed`, but its values are zero, so the
    logits stay those of the source. segment: tokens per segment (None: 256 with a memory, else
    as many as the model was made for). BadInput, one line, for a source that is damaged or that cannot be represented.
    """
    source, asked = Path(source), {"memory": memory, "slots": slots, "segment": segment, "memory_blocks": memory_blocks}
    if source.is_dir():
        return _folder(source, Namespace(**asked, seed=seed))
    file = GGUF(source)
    cfg = llama.config_of_gguf(file)
    llama.check_tensors(cfg, file.shapes, llama.GGUF, source)
    if "rope_freqs.weight" in file.shapes:
        cfg = replace(cfg, scaling=llama.scaling_of(file.read("rope_freqs.weight"), cfg, file.bad))
    tokenizer = tokenizer_of_gguf(file)
    return _model(cfg, tokenizer, file.read, llama.GGUF, source, Namespace(**asked, seed=seed))


def _folder(folder, asked):
    """The TrainedModel of a Hugging Face folder."""
    path = folder / "config.json"
    config = read_json(path)
    if OWN in config and asked.memory == "none" and asked.segment is None:
        return _own_run(folder, config, path)
    cfg = llama.config_of_folder(config, path)
    homes = tensors_of_folder(folder)
    llama.check_tensors(cfg, {name: file.shapes[name] for name, file in homes.items()}, llama.HF, folder)
    tokenizer = tokenizer_of_folder(folder, config)
    return _model(cfg, tokenizer, lambda name: homes[name].read(name), llama.HF, folder, asked)


def _own_run(folder, config, path):
    """The TrainedModel that `export` wrote, or what PyTorch has made of it since."""
    own = config[OWN]
    try:
        settings, answer_len = Settings(**own["settings"]), own["answer_len"]
        if type(answer_len) is not int or not 1 <= answer_len <= settings.segment:
            raise ValueError(f"answer_len {answer_len!r:.20}")
        tokenizer_file = folder / "tokenizer.json"
        text = json.dumps(read_json(tokenizer_file), ensure_ascii=False)
        published = "special" in own
        tokenizer = (PublishedTokenizer.from_json(text, **own["special"]) if published else Tokenizer.from_json(text))
        cfg = settings.exactly(own["config"], tokenizer.size)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: found an entry {OWN!r} that cannot be read ({error}), expected an export's") from None
    homes = tensors_of_folder(folder)
    shapes = {name: file.shapes[name] for name, file in homes.items()}
    llama_like = config.get("model_type") != OWN
    if llama_like:
        llama.check_tensors(cfg, shapes, llama.HF, folder)
    elif shapes != param_shapes(cfg):
        odd = min(set(shapes.items()) ^ set(param_shapes(cfg).items()))
        raise BadInput(f"{folder}: found other tensors than {path.name} says, such as {odd[0]:.60} {list(odd[1])}")
    dtype = homes[next(iter(homes))].read(next(iter(homes))).dtype
    params = Flat(param_shapes(cfg), np, "float64" if dtype == np.float64 else "float32")
    if llama_like:
        llama.fill(params, cfg, lambda name: homes[name].read(name), llama.HF, folder)
        _shift(params, folder / OFFSETS)
    else:
        for name, W in params.items():
            W[...] = homes[name].read(name)
    for name, W in params.items():
        if not np.isfinite(W).all():
            raise BadInput(f"{folder}: {name} holds numbers that are not finite, expected a model that learned")
    return TrainedModel(settings, cfg, params, tokenizer, answer_len)


def _shift(params, path):
    """Move numbers by the last places that the file of an export names."""
    if path.exists():
        file = Safetensors(path)
        for name, shape in file.shapes.items():
            places = file.read(name)
            if name not in ("embed.W", "norm.g") or shape != params[name].shape or places.dtype != np.int8:
                raise BadInput(f"{path}: found {name:.60} {list(shape)}, expected last places of embed.W and norm.g")
            whole = llama.as_places(params[name])        # a view: parameters are contiguous
            whole += places


def tensors_of_folder(folder: Path) -> dict:
    """Tensor name -> the file that holds it: one, or those that the index names."""
    index = folder / INDEX
    if not index.exists():
        if not (folder / SINGLE_FILE).exists():
            raise BadInput(f"{folder}: found no {SINGLE_FILE} and no {INDEX}, expected one of them (older formats: "
                           "save the model again with save_pretrained)")
        file = Safetensors(folder / SINGLE_FILE)
        return dict.fromkeys(file.shapes, file)
    homes, files = read_json(index).get("weight_map"), {}
    if not isinstance(homes, dict) or any(not isinstance(p, str) or Path(p).name != p for p in homes.values()):
        raise BadInput(f"{index}: found no weight_map from tensors to files of this folder, expected one")
    for part in sorted(set(homes.values())):
        files[part] = Safetensors(folder / part)
    for name, part in homes.items():
        if name not in files[part].shapes:
            raise BadInput(f"{folder / part}: found no tensor {name:.60}, expected it: {INDEX} says so")
    return {name: files[part] for name, part in homes.items()}


def _model(cfg, tokenizer, read, spelling, path, asked):
    """The TrainedModel: the source's weights, and a memory's fresh ones beside them."""
    if tokenizer.size > cfg.V:
        raise BadInput(f"{path}: found {tokenizer.size} tokens, expected at most {cfg.V}, the rows of the embedding")
    cfg = with_memory(cfg, asked)
    if 4 * count_params(cfg) > machine_memory():
        raise BadInput(f"{path}: found {count_params(cfg):,} parameters, expected what fits into this machine's memory")
    params = Flat(param_shapes(cfg), np, "float32")
    llama.fill(params, cfg, read, spelling, path)
    start_memory(params, cfg, asked.seed)
    return TrainedModel(settings_of(cfg, asked.seed), cfg, params, tokenizer, min(ANSWER, cfg.T))


def with_memory(cfg: Config, asked: Any) -> Config:
    """The Config with the memory that was asked for.  BadInput where it does not fit."""
    memory = MEMORIES[asked.memory]
    if memory is not None and "mem.Wv" not in memory.param_shapes(cfg):
        fit = ", ".join(name for name, one in MEMORIES.items() if one is not None and "mem.Wv" in one.param_shapes(cfg))
        raise BadInput(f"--memory: found {asked.memory}, expected one with values of its own, which start at zero: "
                       f"{fit}")
    segment = asked.segment or (cfg.T if memory is None else min(256, cfg.T))
    if segment > cfg.T:
        raise BadInput(f"--segment: found {segment}, expected at most {cfg.T}, the positions that the model knows")
    try:
        return replace(cfg, memory=asked.memory, N=cfg.N if memory is None else asked.slots, T=segment,
                       memory_blocks=None if memory is None else asked.memory_blocks)
    except ValueError as error:
        raise BadInput(str(error)) from None


def start_memory(params: dict, cfg: Config, seed: int) -> None:
    """The memory's parameters as `init_params` draws them, but for its values, which are zero.

    So the logits are the source's, bit for bit, and the values learn from step one through a gate that is as open as in
    every LM2. The gate alone would have to be shut so far (-14 for SmolLM2) that its gradients drown in AdamW's eps and
    it never opens; a gate shut to -4 beside values of zero learns more slowly (docs/results/repeated.md).
    """
    mine = [name for name in params if ".mem." in name]
    if mine:
        fresh = init_params(replace(cfg, V=1, F=1), seed)                # a tensor's numbers depend on its name alone
        for name in mine:
            params[name][...] = 0.0 if name.endswith(".Wv") else fresh[name]


def settings_of(cfg: Config, seed: int) -> Settings:
    """The Settings that say most of an imported model; the Config beside them says the rest."""
    return Settings(seed=seed, memory=cfg.memory, memory_blocks=",".join(map(str, cfg.memory_blocks or ())),
                    hidden_size=cfg.D, blocks=cfg.L, heads=cfg.H, kv_heads=cfg.G, ff=cfg.F, slots=cfg.N, segment=cfg.T,
                    tied=cfg.tied)
