"""Runs as folders for transformers: the same logits and gradients in PyTorch, and an export comes back as the run."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests.support import llamas, small
from tests.support.llamas import torch, transformers
from tinylm2.__main__ import main
from tinylm2.data import word_tokenizer
from tinylm2.errors import BadInput
from tinylm2.interop.export_model import OFFSETS, export_model
from tinylm2.interop.import_model import import_model, settings_of
from tinylm2.model import Config, first_states, segment_forward
from tinylm2.recurrence import story_backward, story_forward
from tinylm2.training import run_dir
from tinylm2.training.trained_model import TrainedModel

TOKENIZER = word_tokenizer()
SMALL = Config(V=TOKENIZER.size, D=24, L=2, H=4, G=2, F=20, N=5, T=6)
VARIANTS = {
    "lm2": {}, "tied": {"tied": True}, "block 1 only": {"memory_blocks": (1,)}, "N = D": {"N": 24},
    "T = 1": {"T": 1}, "a key head for every head": {"G": 4}, "wide heads": {"head_dim": 10},
    "other positions": {"base": 500.0, "scaling": (8.0, 0.5, 1.5, 64), "eps": 1e-3},
}
LOADED = {"trust_remote_code": True}


def run(dtype="float64", **changes):
    """A TrainedModel whose every parameter is random."""
    cfg = replace(SMALL, **changes)
    return TrainedModel(settings_of(cfg, 0), cfg, small.params(cfg, dtype), TOKENIZER, 1)


def loaded(folder, dtype):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **LOADED)


def ids_of(model, B=3, length=20):
    return np.random.default_rng(0).integers(0, model.cfg.V, (B, length))


# ---------------------------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_logits_over_several_segments_are_ours(tmp_path, name, dtype, tolerance):
    model = run(dtype, **VARIANTS[name])
    theirs = loaded(export_model(model, tmp_path / "hf"), getattr(torch, dtype))
    ids = ids_of(model)
    expected, _ = story_forward(model.params, ids=ids, cfg=model.cfg)
    found = theirs(torch.tensor(ids)).logits.detach().numpy()
    assert found.dtype == expected.dtype
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_gradient_is_ours(tmp_path, name):
    model = run(**VARIANTS[name])
    theirs = loaded(export_model(model, tmp_path / "hf"), torch.float64)
    ids = ids_of(model)
    logits, cache = story_forward(model.params, ids=ids, cfg=model.cfg)
    upstream = np.random.default_rng(1).standard_normal(logits.shape)
    expected = story_backward(upstream, cache)
    (theirs(torch.tensor(ids)).logits * torch.tensor(upstream)).sum().backward()
    found = {name: W.grad.numpy() for name, W in theirs.named_parameters() if W.grad is not None}
    for name, g in expected.items():
        if name in found or np.abs(g).max():
            assert np.abs(found[name] - g).max() <= 1e-10 * max(1, np.abs(g).max()), name


def test_the_banks_travel_as_a_state(tmp_path):
    """Two calls with the banks between them are one call, and the banks are ours."""
    model = run()
    theirs = loaded(export_model(model, tmp_path / "hf"), torch.float64)
    ids = torch.tensor(ids_of(model, length=18))
    whole = theirs(ids, return_banks=True)
    first = theirs(ids[:, :12], return_banks=True)
    second = theirs(ids[:, 12:], banks=first.banks, return_banks=True)
    assert torch.equal(second.logits, whole.logits[:, 12:])
    assert all(torch.equal(a, b) for a, b in zip(second.banks, whole.banks, strict=True))
    states, _ = first_states(model.params, model.cfg, 3)
    for start in (0, 6, 12):
        _, states, _ = segment_forward(model.params, states, ids=ids.numpy()[:, start:start + 6], cfg=model.cfg)
    for bank, state in zip(whole.banks, states, strict=False):
        assert np.abs(bank.detach().numpy() - state[0]).max() < 1e-12


@pytest.mark.parametrize("place", [0, 7, 12])
def test_a_later_token_changes_nothing_before_it(tmp_path, place):
    theirs = loaded(export_model(run(), tmp_path / "hf"), torch.float64)
    ids = torch.tensor(ids_of(run()))
    other = ids.clone()
    other[:, place] = (other[:, place] + 1) % 200
    one, two = (theirs(x).logits for x in (ids, other))
    assert torch.equal(one[:, :place], two[:, :place])
    assert not torch.equal(one[:, -1], two[:, -1])       # through the banks


def test_padding_is_masked_as_ours_is(tmp_path):
    model = run()
    theirs = loaded(export_model(model, tmp_path / "hf"), torch.float64)
    ids, pad = ids_of(model), np.array([0, 2, 5])
    expected, _ = story_forward(model.params, ids=ids, cfg=model.cfg, pad=pad)
    mask = torch.tensor(np.arange(20) >= pad[:, None])
    found = theirs(torch.tensor(ids), attention_mask=mask.long()).logits.detach().numpy()
    real = np.arange(20) >= pad[:, None]
    assert np.abs(found - expected)[real].max() < 1e-10
    nothing = torch.zeros(3, 6)                          # a whole segment of padding leaves the banks as they are
    masked = theirs(torch.tensor(ids[:, :6]), attention_mask=nothing, return_banks=True)
    assert all(torch.equal(a, b) for a, b in zip(masked.banks, theirs.first_banks(3), strict=True))


@pytest.mark.parametrize("tied", [False, True])
def test_without_a_memory_it_is_a_plain_llama(tmp_path, tied):
    model = run("float32", memory="none", N=1, T=16, tied=tied, base=500.0, scaling=(8.0, 0.5, 1.5, 64), head_dim=10)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(export_model(model, tmp_path / "hf")).eval()
    assert type(theirs).__name__ == "LlamaForCausalLM"
    ids = ids_of(model, length=16)
    expected, _ = story_forward(model.params, ids=ids, cfg=model.cfg)
    assert np.abs(llamas.logits(theirs, ids) - expected).max() < 1e-5 * np.abs(expected).max()


# --------------------------------------------------------------------------------------------------- and back again


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("changes", [{}, {"tied": True, "memory_blocks": (1,)}, {"memory": "none", "N": 1},
                                     {"memory": "none", "N": 1, "tied": True}], ids=str)
def test_the_import_of_an_export_is_the_run_bit_for_bit(tmp_path, changes, dtype):
    model = run(dtype, **changes)
    again = import_model(export_model(model, tmp_path / "hf"))
    assert again.params.buffer.tobytes() == model.params.buffer.tobytes()
    assert again.params.shapes == model.params.shapes
    assert (again.cfg, again.settings, again.answer_len) == (model.cfg, model.settings, model.answer_len)
    assert again.tokenizer.to_json() == model.tokenizer.to_json()


def test_without_its_file_of_offsets_an_embedding_would_come_back_rounded(tmp_path):
    model = run("float32", memory="none", N=1)
    folder = export_model(model, tmp_path / "hf")
    (folder / OFFSETS).unlink()
    again = import_model(folder)
    assert 0 < np.abs(again.params["embed.W"] - model.params["embed.W"]).max() < 1e-6


def test_an_imported_llama_goes_out_and_comes_back(tmp_path):
    first = import_model(llamas.folder(tmp_path / "hf", llamas.llama(**llamas.VARIANTS["llama3"])))
    again = import_model(export_model(first, tmp_path / "out"))
    assert again.params.buffer.tobytes() == first.params.buffer.tobytes()
    assert again.cfg == first.cfg
    assert again.tokenizer.encode("Mary moved") == first.tokenizer.encode("Mary moved")


def test_what_pytorch_has_trained_comes_back(tmp_path):
    """save_pretrained keeps the run's entry, so a model that went to PyTorch returns with what it learned there."""
    model = run("float32")
    theirs = loaded(export_model(model, tmp_path / "hf"), torch.float32)
    with torch.no_grad():
        theirs.blocks[0].mem.Wq[2, 3] = 7.0
    theirs.save_pretrained(tmp_path / "trained")
    (tmp_path / "trained/tokenizer.json").write_text((tmp_path / "hf/tokenizer.json").read_text())
    again = import_model(tmp_path / "trained")
    assert again.params["blocks.0.mem.Wq"][2, 3] == 7
    assert (again.params["head.W"] == model.params["head.W"]).all()


# ------------------------------------------------------------------------------------------------ used as transformers'


def test_it_trains_and_the_loss_is_that_of_the_next_token(tmp_path):
    theirs = loaded(export_model(run("float32"), tmp_path / "hf"), torch.float32)
    ids = torch.tensor(ids_of(run()))
    optimizer, losses = torch.optim.AdamW(theirs.parameters(), lr=1e-2), []
    for _ in range(8):
        out = theirs(ids, labels=ids)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    assert losses[-1] < losses[0] - 1
    out = theirs(ids, labels=torch.where(torch.arange(20) < 15, -100, ids))
    expected = torch.nn.functional.cross_entropy(out.logits[:, 14:-1].flatten(0, 1), ids[:, 15:].flatten())
    assert torch.isclose(out.loss, expected)


def test_bfloat16_and_generation(tmp_path):
    model = run("float32")
    folder = export_model(model, tmp_path / "hf")
    half = loaded(folder, torch.bfloat16)
    assert half(torch.tensor(ids_of(model))).logits.dtype == torch.bfloat16
    theirs = loaded(folder, torch.float32)
    text = "mary moved to the garden"
    ids = model.tokenizer.encode(text)
    model.tokenizer.end = -1                             # both go on for all tokens
    found = theirs.generate(torch.tensor([ids]), max_new_tokens=9, min_new_tokens=9, do_sample=False, eos_token_id=None)
    assert found[0, len(ids):].tolist() == list(model.generate_tokens(text, 9))


def test_fresh_parameters_are_drawn_as_the_model_page_says(tmp_path):
    folder = export_model(run("float32"), tmp_path / "hf")
    config = transformers.AutoConfig.from_pretrained(folder, **LOADED)
    fresh = transformers.AutoModelForCausalLM.from_config(config, **LOADED)
    assert (fresh.blocks[0].mem.bforget == 3).all()
    assert abs(float(fresh.blocks[0].attn.Wqkv.detach().std()) * 24**0.5 - 1) < 0.15
    assert abs(float(fresh.blocks[0].ff.Wdown.detach().std()) * 20**0.5 * 2 - 1) < 0.2


# ------------------------------------------------------------------------------------------------------------ commands


def test_the_command_writes_a_folder_and_replaces_none(tmp_path, capsys):
    model = run("float32")
    run_dir.RunDir(tmp_path / "run").claim()
    folder = tmp_path / "hf"
    path = llamas.folder(tmp_path / "llama", llamas.llama())
    assert main(["import", str(path), "--out", str(tmp_path / "run")]) == 0
    command = ["export", str(tmp_path / "run"), "--to", str(folder)]
    assert main(command) == 0
    assert "AutoModelForCausalLM.from_pretrained" in capsys.readouterr().out
    assert main(command) == 2
    assert "expected an empty folder; --overwrite replaces them" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer("Mary moved").input_ids == import_model(path).tokenizer.encode("Mary moved")
    assert model.cfg.memory == Config.memory


def test_a_memory_without_pytorch_code_is_refused(tmp_path):
    with pytest.raises(BadInput, match="found a run with memory rmt, expected lm2 or none"):
        export_model(run(memory="rmt"), tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("change", [
    {"config": {"V": 5}}, {"config": 7}, {"settings": {"hidden_size": 10**9}}, {"settings": None}, {"answer_len": 0},
    {"answer_len": "1"}, {"special": {"end": "x"}}, {"special": {"end": 3, "pad": []}},
], ids=str)
def test_a_damaged_entry_of_an_export_is_one_line(tmp_path, capsys, change):
    folder = export_model(run("float32"), tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    config["tinylm2"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["import", str(folder), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "found" in error


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")          # of torch's own files
@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_it_compiles_to_the_same_numbers(tmp_path, backend):
    """A whole segment is one graph, and its gradients too: eager checks the front end, inductor makes C++ of it (which
    takes a compiler minutes on a busy machine, so it is a long test)."""
    if backend == "inductor" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("inductor needs a C++ compiler, and none is installed")
    theirs = loaded(export_model(run("float32", L=1), tmp_path / "hf"), torch.float32)
    ids = torch.tensor(ids_of(run())[:, :6])
    compiled, found = torch.compile(theirs.segment, backend=backend, fullgraph=True), []
    for segment in (theirs.segment, compiled):
        logits, banks = segment(ids, theirs.first_banks(3), None, True)
        (logits.sum() + sum(bank.square().sum() for bank in banks)).backward()
        found.append((logits, *banks, *(W.grad for W in theirs.parameters())))
        theirs.zero_grad(set_to_none=True)
    for expected, same in zip(*found, strict=True):
        assert torch.allclose(expected, same, atol=1e-4, rtol=1e-4)


def test_bfloat16_autocast_gives_nearly_the_same_loss_and_gradients(tmp_path):
    """The parameters stay float32, and what autocast rounds are the products."""
    theirs = loaded(export_model(run("float32"), tmp_path / "hf"), torch.float32)
    ids, found = torch.tensor(ids_of(run())), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = theirs(ids, labels=ids)
        out.loss.backward()
        grads = torch.cat([W.grad.flatten() for W in theirs.parameters()])
        theirs.zero_grad(set_to_none=True)
        found.append((out, grads))
    (exact, g), (rounded, h) = found
    assert rounded.logits.dtype == torch.bfloat16
    assert rounded.loss.dtype == h.dtype == torch.float32
    assert 0 < abs(rounded.loss - exact.loss) < 0.02 * exact.loss
    assert torch.nn.functional.cosine_similarity(g, h, dim=0) > 0.99


def test_accelerate_trains_it_in_bfloat16(tmp_path):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed (pip install accelerate)")
    folder = export_model(run("float32"), tmp_path / "hf")
    theirs = loaded(folder, torch.float32)
    ids = torch.tensor(ids_of(run(), B=8))
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    model, optimizer, batches = accelerator.prepare(
        theirs, torch.optim.AdamW(theirs.parameters(), lr=1e-2), torch.utils.data.DataLoader(ids, batch_size=4))
    losses = []
    for _ in range(5):
        for batch in batches:
            loss = model(batch, labels=batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert losses[-1] < losses[0] - 1
    accelerator.unwrap_model(model).save_pretrained(tmp_path / "trained")
    (tmp_path / "trained/tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    back = import_model(tmp_path / "trained")
    assert (back.params["blocks.0.mem.Wq"] == theirs.blocks[0].mem.Wq.detach().numpy()).all()


def test_the_pytorch_file_is_at_most_300_lines():
    from importlib.resources import files

    assert len(files("tinylm2.interop").joinpath("modeling_lm2.py").read_text().splitlines()) <= 300
