"""Published Llamas as runs: the same logits as transformers', and one line for whatever cannot be represented."""

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import llamas
from tests.support.llamas import LLAMA3, TEXT, VARIANTS, torch
from tinylm2.__main__ import main
from tinylm2.data import PublishedTokenizer
from tinylm2.errors import BadInput
from tinylm2.interop.import_model import import_model
from tinylm2.interop.llama import halved, paired
from tinylm2.interop.tensors import Safetensors, write_safetensors
from tinylm2.model import init_params
from tinylm2.recurrence import story_backward, story_forward
from tinylm2.training import run_dir

IDS = np.random.default_rng(0).integers(0, 300, (2, 40))


def ours(model, ids=IDS):
    return story_forward(model.params, ids=ids, cfg=model.cfg)[0]


@pytest.fixture
def folder(tmp_path):
    return llamas.folder(tmp_path / "hf", llamas.llama())


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_transformers(name, tmp_path):
    theirs = llamas.llama(**VARIANTS[name])
    found = import_model(llamas.folder(tmp_path, theirs))
    expected = llamas.logits(theirs, IDS)
    assert np.abs(ours(found) - expected).max() < 2e-5 * np.abs(expected).max()
    assert found.cfg.tied == (name == "tied")


@pytest.mark.parametrize(("dtype", "shard"), [("float16", "1GB"), ("bfloat16", "1GB"), ("float32", "20KB")])
def test_other_number_formats_and_several_files_are_read(dtype, shard, tmp_path):
    theirs = llamas.llama()
    path = llamas.folder(tmp_path, theirs, dtype=getattr(torch, dtype), shard=shard)
    assert len(list(path.glob("*.safetensors"))) == (1 if shard == "1GB" else len(list(path.glob("model-*"))))
    expected = llamas.logits(llamas.read(path), IDS)     # the rounded weights, computed in float32
    assert np.abs(ours(import_model(path)) - expected).max() < 2e-5 * np.abs(expected).max()


def test_a_config_of_older_transformers_means_the_same(tmp_path):
    theirs = llamas.llama(**VARIANTS["llama3"])
    path = llamas.folder(tmp_path, theirs)
    llamas.edited(path, rope_parameters=None, rope_theta=LLAMA3["rope_theta"],
                  rope_scaling={"type": "llama3"} | {name: LLAMA3[name] for name in LLAMA3 if "rope" not in name})
    assert import_model(path).cfg == import_model(llamas.folder(tmp_path / "new", theirs)).cfg


def test_the_tokenizer_comes_along(folder, tmp_path):
    main(["import", str(folder), "--out", str(tmp_path / "run")])
    found = run_dir.load(tmp_path / "run")[0].tokenizer
    expected = llamas.tokenizer()
    for text in (TEXT, " spaces  and <|end|>", "日本", "12345"):
        assert found.encode(text) == expected.encode(text).ids or "<|end|>" in text
        assert found.decode(found.encode(text)) == text
    assert found.end == 1
    assert isinstance(PublishedTokenizer.from_json((tmp_path / "run/tokenizer.json").read_text(), end="<|end|>",
                                                   pad="<|end|>"), PublishedTokenizer)


def test_the_run_on_disk_is_the_model(folder, tmp_path, capsys):
    assert main(["import", str(folder), "--out", str(tmp_path / "run")]) == 0
    assert "2 blocks, memory: none, segments of 64" in capsys.readouterr().out
    model, moments, progress = run_dir.load(tmp_path / "run")
    fresh = import_model(folder)
    assert (model.cfg, model.settings, model.answer_len) == (fresh.cfg, fresh.settings, fresh.answer_len)
    assert (model.params.buffer == fresh.params.buffer).all()
    assert not moments["m"].any()
    assert progress["step"] == 0


def test_rows_in_pairs_and_in_halves_are_the_same_rows():
    x = np.random.default_rng(0).standard_normal((24, 5))
    assert (halved(paired(x, 8), 8) == x).all()
    assert (paired(x, 8)[:4] == x[[0, 4, 1, 5]]).all()


# ---------------------------------------------------------------------------------------------------- a memory is added


@pytest.mark.parametrize(("memory", "blocks"), [
    ("lm2", None), ("lm2", (1,)), ("pooled", None), ("memformer", None), ("armt", None), ("titans", None)])
def test_a_memory_that_is_added_moves_no_logit_by_a_thousandth(folder, memory, blocks):
    plain = import_model(folder, segment=8)
    found = import_model(folder, memory=memory, slots=4, segment=8, memory_blocks=blocks)
    assert np.abs(ours(found) - ours(plain)).max() < 1e-3            # what is promised
    assert (ours(found) == ours(plain)).all()            # what is done: the values are zero
    names = {name for name in found.params if ".mem." in name}
    assert {name.split(".")[1] for name in names} == ({"0", "1"} if blocks is None else {"1"})
    fresh = init_params(found.cfg, 0)
    for name in names:
        assert (found.params[name] == (0 if name.endswith("Wv") else fresh[name])).all(), name
    for name, W in plain.params.items():
        assert (found.params[name] == W).all(), name


def test_a_memory_that_is_added_can_learn(folder):
    """Its values have gradients from the first step, and its gate as soon as they are no longer zero."""
    found = import_model(folder, memory="lm2", slots=4, segment=8)
    for names in (("mem.Wv",), ("mem.Wv", "mem.Wq", "mem.Wk", "mem.bout", "mem.Win", "mem.bforget")):
        logits, cache = story_forward(found.params, ids=IDS, cfg=found.cfg)
        grads = story_backward(np.random.default_rng(0).standard_normal(logits.shape).astype("f4"), cache)
        for name in names:
            assert np.abs(grads[f"blocks.0.{name}"]).max() > 1e-3, name
        for i in range(2):
            found.params[f"blocks.{i}.mem.Wv"][...] -= 1e-3 * grads[f"blocks.{i}.mem.Wv"]


def test_the_memory_starts_from_its_seed(folder):
    one, same, other = (import_model(folder, memory="lm2", seed=seed).params["blocks.0.mem.Wq"] for seed in (3, 3, 4))
    assert (one == same).all()
    assert (one != other).any()


@pytest.mark.parametrize(("asked", "said"), [
    ({"memory": "rmt"}, "--memory: found rmt, expected one with values of its own"),
    ({"memory": "infini"}, "--memory: found infini, expected one with values of its own"),
    ({"memory": "lm2", "slots": 49}, "N=49 slots, expected at most D=48"),
    ({"memory": "lm2", "memory_blocks": (2,)}, "memory_blocks (2,), expected numbers in 0..1"),
    ({"segment": 65}, "--segment: found 65, expected at most 64"),
])
def test_a_memory_that_does_not_fit_is_refused(folder, asked, said):
    with pytest.raises(BadInput, match=re.escape(said)):
        import_model(folder, **asked)


# ----------------------------------------------------------------------------------- what cannot be represented or read


@pytest.mark.parametrize(("changes", "said"), [
    ({"model_type": "qwen2"}, "found model_type 'qwen2', expected 'llama'"),
    ({"attention_bias": True}, "found attention_bias 'True', expected none"),
    ({"mlp_bias": True}, "found mlp_bias"),
    ({"sliding_window": 4096}, "found sliding_window '4096'"),
    ({"quantization_config": {"bits": 4}}, "found quantization_config"),
    ({"hidden_act": "gelu"}, "found hidden_act 'gelu', expected 'silu'"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 4}}, "rope_scaling of type 'yarn'"),
    ({"rope_parameters": {"rope_type": "llama3"}}, "found rope_scaling (None, None, None, None)"),
    ({"rope_parameters": 7}, "found rope_scaling"),
    ({"hidden_size": 1 << 60}, "found D 1152921504606846976, expected a whole number from 1 to 16384"),
    ({"num_attention_heads": "6"}, "found H 6, expected a whole number"),
    ({"num_attention_heads": None}, "found H None, expected"),
    ({"num_hidden_layers": 3}, "found no tensor model.layers.2.input_layernorm.weight"),
    ({"num_hidden_layers": 1}, "found the tensor model.layers.1"),
    ({"vocab_size": 305}, "model.embed_tokens.weight is [304, 48], expected [305, 48]"),
    ({"num_attention_heads": 5}, "D=48 is not divisible by H=5"),
    ({"rms_norm_eps": -1}, "eps -1.0, expected above 0"),
    ({"rms_norm_eps": [1]}, "found eps [1], expected a number"),
    ({"tie_word_embeddings": 3}, "found tie_word_embeddings 3"),
    ({"eos_token_id": 99999}, "found no token ''"),
], ids=str)
def test_what_cannot_be_represented_is_refused_by_name(folder, tmp_path, capsys, changes, said):
    llamas.edited(folder, **changes)
    assert main(["import", str(folder), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_biases_in_the_weights_are_refused_by_name(tmp_path, capsys):
    path = llamas.folder(tmp_path / "hf", llamas.llama(attention_bias=True))
    llamas.edited(path, attention_bias=False)
    assert main(["import", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "found the tensor model.layers.0.self_attn.k_proj.bias, expected none" in capsys.readouterr().err


def _header(path, change):
    """Rewrite a safetensors file's header."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    text = json.dumps(change(json.loads(raw[8:8 + length]))).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length:])


def _entry(**changes):
    def change(header):
        header["model.norm.weight"] |= changes
        return header
    return change


DAMAGED = {
    "cut off": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "too long": lambda p: p.write_bytes(p.read_bytes() + b"x"),
    "empty": lambda p: p.write_bytes(b""),
    "five bytes": lambda p: p.write_bytes(b"\0" * 5),
    "a header of 2^63 bytes": lambda p: p.write_bytes(struct.pack("<Q", 2**63) + p.read_bytes()[8:]),
    "a header that is no JSON": lambda p: p.write_bytes(struct.pack("<Q", 4) + b"{{{{"),
    "a header that is no text": lambda p: p.write_bytes(struct.pack("<Q", 4) + b"\xff\xfe{}"),
    "a header that is a list": lambda p: p.write_bytes(struct.pack("<Q", 2) + b"[]"),
    "deep JSON": lambda p: p.write_bytes(struct.pack("<Q", 90_000) + b"[" * 90_000),
    "an entry without a place": lambda p: _header(p, lambda h: h | {"model.norm.weight": {"dtype": "F32"}}),
    "a negative place": lambda p: _header(p, _entry(data_offsets=[-4, 188])),
    "a huge place": lambda p: _header(p, _entry(data_offsets=[0, 2**60])),
    "a place of others": lambda p: _header(p, _entry(data_offsets=[0, 192])),
    "a shape that does not fit": lambda p: _header(p, _entry(shape=[49])),
    "a shape of text": lambda p: _header(p, _entry(shape=["48"])),
    "a shape of many axes": lambda p: _header(p, _entry(shape=[1] * 100 + [48])),
    "eight-bit floats": lambda p: _header(p, _entry(dtype="F8_E4M3")),
    "a number format of numbers": lambda p: _header(p, _entry(dtype=4)),
    "integers": lambda p: _header(p, _entry(dtype="I32")),
    "the file is a folder": lambda p: (p.unlink(), p.mkdir()),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_file_ends_in_one_line_and_nothing_is_written(folder, tmp_path, capsys, how):
    DAMAGED[how](folder / "model.safetensors")
    assert main(["import", str(folder), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert len(error) < 400
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_finite_are_refused(folder, tmp_path, capsys):
    file = Safetensors(folder / "model.safetensors")
    tensors = {name: file.read(name) for name in file.shapes}
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan
    write_safetensors(folder / "model.safetensors", tensors)
    assert main(["import", str(folder), "--out", str(tmp_path / "run")]) == 2
    assert "model.layers.1.mlp.up_proj.weight holds numbers that are not finite" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["../model-00002-of-00002.safetensors", "/dev/zero", "missing.safetensors", 7, "pipe"])
def test_an_index_names_files_of_its_own_folder_only(tmp_path, capsys, part):
    path = llamas.folder(tmp_path / "hf", llamas.llama(), shard="20KB")
    index = json.loads((path / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = part
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    if part == "pipe":
        subprocess.run(["mkfifo", str(path / "pipe")], check=True)
    capsys.readouterr()                                  # transformers drew a bar
    assert main(["import", str(path), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_part_is_named(folder, tmp_path, capsys, missing):
    (folder / missing).unlink()
    assert main(["import", str(folder), "--out", str(tmp_path / "run")]) == 2
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize(("place", "part"), [
    ("normalizer", {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}),
    ("normalizer", {"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": ""}),
    ("normalizer", {"type": "Prepend", "prepend": "a" * 1000}),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}),
    ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": ".*"}}]}),
    ("pre_tokenizer", {"type": ["ByteLevel"]}),
    ("model", {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}),
    ("model", {"type": "BPE", "vocab": {"a": 1 << 30}, "merges": []}),
    ("model", []),
    ("added_tokens", [{"id": 5}]),
], ids=str)
def test_a_tokenizer_that_could_grow_or_stall_is_refused(folder, tmp_path, capsys, place, part):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {place: part}))
    assert main(["import", str(folder), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "tokenizer" in error
    assert error.count("\n") == 1


def test_a_refused_source_leaves_the_old_run(folder, tmp_path, capsys):
    command = ["import", str(folder), "--out", str(tmp_path / "run")]
    assert main(command) == 0
    assert main(command) == 2
    assert "found another run" in capsys.readouterr().err
    before = (tmp_path / "run/model.npz").read_bytes()
    llamas.edited(folder, hidden_act="gelu")
    assert main([*command, "--overwrite"]) == 2
    assert (tmp_path / "run/model.npz").read_bytes() == before


# ---------------------------------------------------------------------------------------------------- safetensors alone


def test_arrays_that_are_not_contiguous_are_written_in_order(tmp_path):
    """safetensors 0.8.0 writes them as they lie in memory."""
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_safetensors(tmp_path / "x.safetensors", {"a": x.T, "b": x[:, ::2], "c": x.astype(np.float64)})
    file = Safetensors(tmp_path / "x.safetensors")
    assert (file.read("a") == x.T).all()
    assert (file.read("b") == x[:, ::2]).all()
    theirs = pytest.importorskip("safetensors.numpy").load_file(tmp_path / "x.safetensors")
    assert (theirs["a"] == x.T).all()
    assert theirs["c"].dtype == np.float64


def test_import_is_quiet_about_where_it_runs():
    """No part of it imports torch or transformers."""
    code = "import sys, tinylm2.interop.import_model; sys.exit(bool({'torch', 'gguf'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], timeout=60).returncode == 0
