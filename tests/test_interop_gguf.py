"""GGUF files as runs: written here with the package gguf from a tiny Llama, and by hand where they are damaged."""

import json
import struct

import numpy as np
import pytest

from tests.support import llamas
from tests.support.llamas import VARIANTS
from tinylm2.__main__ import main
from tinylm2.interop.import_model import import_model
from tinylm2.interop.llama import BLOCK, ENDS, paired
from tinylm2.recurrence import story_forward

gguf = pytest.importorskip("gguf", reason="gguf writes the files that are imported")
IDS = np.random.default_rng(0).integers(0, 300, (2, 40))


def written(path, theirs, *, quantised=None, scaling=None, changes=None, without=()):
    """A GGUF file of a transformers Llama as llama.cpp's own converter lays it out: rows of q and k in pairs."""
    config, words = theirs.config, llamas.tokenizer()
    writer = gguf.GGUFWriter(str(path), "llama")
    K = config.head_dim
    keys = {"context_length": config.max_position_embeddings, "embedding_length": config.hidden_size,
            "block_count": config.num_hidden_layers, "feed_forward_length": config.intermediate_size,
            "attention.head_count": config.num_attention_heads, "attention.head_count_kv": config.num_key_value_heads,
            "attention.key_length": K, "attention.value_length": K, "rope.dimension_count": K,
            "vocab_size": config.vocab_size, **(changes or {})}
    for name, value in keys.items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_string)(f"llama.{name}", value)
    writer.add_float32("llama.rope.freq_base", config.rope_parameters["rope_theta"])
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    tokens = [words.id_to_token(i) or f"<unused {i}>" for i in range(config.vocab_size)]
    merges = [" ".join(pair) for pair in json.loads(words.to_str())["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i < 2 else 1 for i in range(len(tokens))])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(1)
    spelling = {theirs + ".weight": ours + ".weight" for theirs, ours in ENDS.values()}
    spelling |= {f"model.layers.{i}.{theirs}.weight": f"blk.{i}.{ours}.weight" for theirs, ours in BLOCK.values()
                 for i in range(config.num_hidden_layers)}
    for name, W in theirs.state_dict().items():
        if name in without or config.tie_word_embeddings and name == "lm_head.weight":
            continue
        x = W.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            x = paired(x, K)
        if quantised and x.ndim == 2:
            kind = gguf.GGMLQuantizationType[quantised]
            writer.add_tensor(spelling[name], gguf.quants.quantize(x, kind), raw_dtype=kind)
        else:
            writer.add_tensor(spelling[name], x)
    if scaling is not None:
        writer.add_tensor("rope_freqs.weight", scaling.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def ours(model):
    return story_forward(model.params, ids=IDS, cfg=model.cfg)[0]


@pytest.mark.parametrize("name", ["plain", "tied", "one key head", "another base", "wide heads"])
def test_logits_are_those_of_transformers(tmp_path, name):
    theirs = llamas.llama(**VARIANTS[name])
    model = import_model(written(tmp_path / "x.gguf", theirs))
    expected = llamas.logits(theirs, IDS)
    assert np.abs(ours(model) - expected).max() < 2e-5 * np.abs(expected).max()
    assert model.cfg.eps == theirs.config.rms_norm_eps


def test_scaled_positions_are_known_by_their_factors(tmp_path):
    """The file has a factor per pair; Llama 3's rule with these numbers gives the same."""
    rope = llamas.LLAMA3 | {"original_max_position_embeddings": 8192}
    theirs = llamas.llama(rope_parameters=rope, max_position_embeddings=64, head_dim=16)
    K, base = 16, rope["rope_theta"]
    w = base ** (-np.arange(0, K, 2) / K)
    inverse = theirs.model.rotary_emb.inv_freq.double().numpy()
    model = import_model(written(tmp_path / "x.gguf", theirs, scaling=w / inverse))
    assert model.cfg.scaling == (8.0, 1.0, 4.0, 8192)
    expected = llamas.logits(theirs, IDS)
    assert np.abs(ours(model) - expected).max() < 2e-5 * np.abs(expected).max()


def test_another_rule_of_scaling_is_refused(tmp_path, capsys):
    path = written(tmp_path / "x.gguf", llamas.llama(), scaling=np.linspace(1, 3, 4))
    assert main(["import", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "found rope_freqs.weight of another rule, expected Llama 3's scaling" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "close"), [("Q8_0", 0.3), ("Q4_1", 5.0), ("F16", 0.03), ("BF16", 0.2)])
def test_quantised_tensors_are_dequantised(tmp_path, kind, close):
    """As the package does it: near the numbers before, and the same as its own."""
    theirs = llamas.llama(hidden_size=64, num_attention_heads=4, intermediate_size=96)
    path = written(tmp_path / "x.gguf", theirs, quantised=kind)
    model = import_model(path)
    assert np.abs(ours(model) - llamas.logits(theirs, IDS)).max() < close
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.1.ffn_down.weight")
    expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    assert (model.params["blocks.1.ff.Wdown"] == expected.reshape(64, 96).T).all()


def test_the_tokenizer_is_that_of_the_folder(tmp_path):
    theirs = llamas.llama()
    one = import_model(written(tmp_path / "x.gguf", theirs)).tokenizer
    other = import_model(llamas.folder(tmp_path / "hf", theirs)).tokenizer
    for text in (llamas.TEXT, " a  b\n\n12"):
        assert one.encode(text) == other.encode(text)
        assert one.decode(one.encode(text)) == text
    assert (one.end, one.special["end"]) == (1, "<|end|>")


@pytest.mark.parametrize(("changes", "said"), [
    ({"expert_count": 8}, "found llama.expert_count '8', expected 0"),
    ({"rope.scaling.type": "yarn"}, "found llama.rope.scaling.type 'yarn'"),
    ({"attention.sliding_window": 4096}, "found llama.attention.sliding_window '4096'"),
    ({"rope.dimension_count": 4}, "found llama.rope.dimension_count 4, expected 8"),
    ({"attention.value_length": 4}, "found values of another width than keys"),
    ({"block_count": 3}, "found no tensor blk.2."),
    ({"embedding_length": 2**31}, "found D 2147483648"),
    ({"embedding_length": "48"}, "found D 48, expected a whole number"),
    ({"attention.head_count": 0}, "found H 0"),
], ids=str)
def test_what_cannot_be_represented_is_refused_by_name(tmp_path, capsys, changes, said):
    path = written(tmp_path / "x.gguf", llamas.llama(), changes=changes)
    assert main(["import", str(path), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def _at(position, raw):
    return lambda good: good[:position] + raw + good[position + len(raw):]


DAMAGED = {
    "empty": lambda good: b"",
    "another magic": _at(0, b"GGML"),
    "version 99": _at(4, struct.pack("<I", 99)),
    "2^60 tensors": _at(8, struct.pack("<Q", 2**60)),
    "2^60 settings": _at(16, struct.pack("<Q", 2**60)),
    "a key of 2^63 bytes": _at(24, struct.pack("<Q", 2**63)),
    "half of it": lambda good: good[:len(good) // 2],
    "a byte less": lambda good: good[:-200],
    "header only": lambda good: good[:24],
    "noise": lambda good: good[:24] + np.random.default_rng(0).bytes(5000),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_file_ends_in_one_line_and_nothing_is_written(tmp_path, capsys, how):
    path = written(tmp_path / "x.gguf", llamas.llama())
    path.write_bytes(DAMAGED[how](path.read_bytes()))
    assert main(["import", str(path), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_hundred_damaged_files_end_in_one_line_each(tmp_path, capsys):
    """Bytes changed anywhere in the header: the run is made, or one line says why not."""
    path = written(tmp_path / "x.gguf", llamas.llama())
    good, rng = path.read_bytes(), np.random.default_rng(1)
    header = good.index(b"blk.0.attn_k") + 2000
    for _ in range(100):
        bad = bytearray(good)
        for place in rng.integers(0, header, rng.integers(1, 4)):
            bad[place] = rng.integers(0, 256)
        path.write_bytes(bad)
        status = main(["import", str(path), "--out", str(tmp_path / "run"), "--overwrite"])
        error = capsys.readouterr().err
        assert (status, error.count("\n")) in ((0, 0), (2, 1)), error


@pytest.mark.parametrize("path", ["/dev/zero", "missing.gguf", "."])
def test_only_plain_files_are_read(tmp_path, capsys, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    assert main(["import", path, "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
