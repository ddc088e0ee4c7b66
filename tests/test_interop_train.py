"""`train --from RUN --text FILE --freeze base`: a memory learns inside a model that stays as it is."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support import llamas, small
from tinylm2.__main__ import main
from tinylm2.data import Rng, Stories, TextSampler
from tinylm2.errors import BadInput
from tinylm2.flat import Flat
from tinylm2.interop.import_model import import_model
from tinylm2.memories import MEMORIES
from tinylm2.model import init_params, param_shapes
from tinylm2.optim import AdamW
from tinylm2.recurrence import story_backward, story_forward
from tinylm2.training import run_dir
from tinylm2.training.frozen import FrozenBase, memory_names, only_memories
from tinylm2.training.step import NotFinite, train_step

TEXT = "Mary moved to the garden. John went to the office. Where is Mary? Sandra got the milk there. " * 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llamas.folder(tmp_path_factory.mktemp("hf"), llamas.llama())


@pytest.fixture
def run(folder, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    main(["import", str(folder), "--out", str(tmp_path / "run"), "--memory", "lm2", "--slots", "4", "--segment", "16"])
    return tmp_path / "run"


def trained(run, out, *more):
    return main(["train", "--from", str(run), "--text", str(run.parent / "text.txt"), "--out", str(out), "--steps", "4",
                 "--segments", "2", "--batch", "2", "--lr", "0.01", "--device", "cpu", *more])


def test_only_the_memory_moves(run, tmp_path):
    assert trained(run, tmp_path / "out", "--freeze", "base") == 0
    before, after = (run_dir.load(path)[0].params for path in (run, tmp_path / "out"))
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert moved <= set(memory_names(before))
    assert {"blocks.0.mem.Wv", "blocks.1.mem.bout", "blocks.0.mem.Win"} <= moved


def test_without_freeze_all_of_it_moves(run, tmp_path):
    assert trained(run, tmp_path / "out") == 0
    before, after = (run_dir.load(path)[0].params for path in (run, tmp_path / "out"))
    assert (before["blocks.0.attn.Wqkv"] != after["blocks.0.attn.Wqkv"]).any()
    assert (before["embed.W"] != after["embed.W"]).any()


def test_a_text_run_resumes_bit_for_bit(run, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    trained(run, whole, "--freeze", "base")
    trained(run, cut, "--freeze", "base", "--save-every", "2")
    (cut / "model.npz").unlink()
    (cut / "model.previous.npz").rename(cut / "model.npz")
    assert run_dir.load(cut)[2]["step"] in (2, 4)
    assert main(["train", "--resume", "--out", str(cut), "--text", str(run.parent / "text.txt")]) == 0
    (one, moments, _), (other, theirs, _) = run_dir.load(whole), run_dir.load(cut)
    assert one.params.buffer.tobytes() == other.params.buffer.tobytes()
    assert moments["v"].tobytes() == theirs["v"].tobytes()


def test_a_resumed_run_opens_its_text_only_where_it_is_named_again(run, tmp_path, capsys):
    trained(run, tmp_path / "out")
    assert main(["train", "--resume", "--out", str(tmp_path / "out")]) == 2
    assert "--text: found a run that was trained with" in capsys.readouterr().err


@pytest.mark.parametrize("blocks", [None, (0,), (1,)])
def test_frozen_gradients_are_the_memory_s_own(folder, blocks):
    """Inside, the gradients are those of the memories alone, and equal to those of the whole backward."""
    model = import_model(folder, memory="lm2", slots=4, segment=8, memory_blocks=blocks)
    for name, W in model.params.items():
        W += np.random.default_rng(len(name)).normal(0, 0.1, W.shape).astype("f4") * (".mem." in name)
    logits, cache = story_forward(model.params, ids=np.arange(40).reshape(2, 20), cfg=model.cfg)
    upstream = np.random.default_rng(0).standard_normal(logits.shape).astype("f4")
    expected, names = story_backward(upstream, cache), memory_names(model.params)
    with only_memories(model.params):
        from tinylm2 import recurrence

        found = recurrence.story_backward(upstream, cache)
    assert list(found) == names
    for name in names:
        assert np.abs(found[name] - expected[name]).max() <= 1e-6 * np.abs(expected[name]).max(), name
    assert (story_backward(upstream, cache).buffer == expected.buffer).all()     # outside, everything is as before


@pytest.mark.parametrize("options", [{}, {"truncate": 1}, {"truncate": 2, "recompute": True}], ids=str)
@pytest.mark.parametrize("name", [name for name, memory in MEMORIES.items() if memory and name != "window"])
def test_frozen_gradients_of_every_memory_are_those_of_the_whole_backward(name, options):
    cfg = replace(small.CFG, memory=name, L=3, memory_blocks=None if name == "rmt" else (1,), T=4)
    if not any(".mem." in one or one.startswith("memory.") for one in param_shapes(cfg)):
        pytest.skip(f"{name} has no parameters of its own")
    params = init_params(cfg, 0, dtype="float64")
    rng = np.random.default_rng(0)
    params.buffer += 0.1 * rng.standard_normal(params.buffer.size)
    ids = rng.integers(0, cfg.V, (2, 11))
    logits, cache = story_forward(params, ids=ids, cfg=cfg, **options)
    upstream = rng.standard_normal(logits.shape)
    expected = story_backward(upstream, cache)
    with only_memories(params):
        from tinylm2 import recurrence

        found = recurrence.story_backward(upstream, cache)
    assert list(found) == memory_names(params)
    for one, W in found.items():
        np.testing.assert_allclose(W, expected[one], rtol=1e-9, atol=1e-12)


def test_a_frozen_step_that_is_not_finite_says_so_and_moves_nothing(folder):
    model = import_model(folder, memory="lm2", slots=4, segment=8)
    params = model.params
    params["blocks.0.mem.Wv"][0, 0] = np.inf
    before = params.buffer.copy()
    batch = TextSampler(2, 8, np.arange(100)).batch(Stories((), tokenizer=None, filler=None, seed=5), 3, 4)
    with np.errstate(all="ignore"), only_memories(params), pytest.raises(NotFinite, match="first not finite: "):
        train_step(params, FrozenBase(params), batch, lr=1e-2, cfg=model.cfg)
    assert (params.buffer == before).all()


def test_a_frozen_step_is_adamw_s_on_the_memory_alone(folder):
    model = import_model(folder, memory="lm2", slots=4, segment=8)
    params, names = model.params, memory_names(model.params)
    part = Flat({name: params.shapes[name] for name in names}, np, "float32")
    rng, plain, frozen = np.random.default_rng(0), AdamW(part), FrozenBase(params)
    for name in names:
        part[name][...] = params[name]
    before = params["embed.W"].copy()
    for _ in range(3):
        grads = part.like(rng.standard_normal(part.buffer.size).astype("f4"))
        frozen.step(params, grads, 1e-2)
        plain.step(part, grads, 1e-2)
    assert all((params[name] == part[name]).all() for name in names)
    assert (params["embed.W"] == before).all()
    assert frozen.t == 3
    moments = frozen.moments_like(params)
    again = FrozenBase(params)
    again.restore(params, moments)
    assert (again.m == frozen.m).all()
    assert (again.v == plain.v).all()
    assert not params.like(moments["v"])["embed.W"].any()


def test_a_frozen_batch_in_shards_of_which_one_is_empty_is_the_same_step(folder):
    model = import_model(folder, memory="lm2", slots=4, segment=8)
    names, found = memory_names(model.params), []
    stories = Stories((), tokenizer=None, filler=None, seed=5)
    batch = TextSampler(2, 8, np.arange(100)).batch(stories, 3, 4)
    for parts in ((batch,), (batch, None)):
        params = model.params.like(model.params.buffer.copy())
        with only_memories(params):
            train_step(params, FrozenBase(params), *parts, lr=1e-2, cfg=model.cfg)
        found.append(params.buffer)
    assert (found[0] == found[1]).all()
    assert any((params[name] != model.params[name]).any() for name in names)


def test_rows_of_a_text_depend_on_seed_step_and_row_alone():
    sampler, stories = TextSampler(2, 8, np.arange(100)), Stories((), tokenizer=None, filler=None, seed=5)
    batch = sampler.batch(stories, 3, 4)
    assert batch.ids.shape == (4, 16)
    assert (batch.targets == batch.ids + 1).all()
    half = sampler.batch(stories, 3, 4, shard=1, shards=2)
    assert (half.ids == batch.ids[2:]).all()
    assert (batch.ids[:, 0] != sampler.batch(stories, 4, 4).ids[:, 0]).any()
    assert isinstance(stories.rng(0, 1), Rng)


def test_a_text_too_short_for_a_row_is_refused():
    with pytest.raises(BadInput, match="found 16 tokens, expected at least 17: a row of 2 segments of 8"):
        TextSampler(2, 8, np.arange(16))


@pytest.mark.parametrize(("more", "said"), [
    (["--hidden-size", "64"], "--hidden-size: found 64, expected 48"),
    (["--segments", "99"], "a row of 99 segments"),
    (["--freeze", "all"], "invalid choice"),
    (["--batch", "3", "--shards", "2"], "divides a batch of 3 rows"),
], ids=str)
def test_settings_that_do_not_fit_are_one_line(run, tmp_path, capsys, more, said):
    assert trained(run, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out/model.npz").exists()


def test_text_without_a_run_and_a_frozen_base_without_a_memory_are_refused(run, folder, tmp_path, capsys):
    text = str(run.parent / "text.txt")
    assert main(["train", "--text", text, "--out", str(tmp_path / "a")]) == 2
    assert "found no --from" in capsys.readouterr().err
    assert main(["train", "--from", str(run), "--out", str(tmp_path / "a")]) == 2
    assert "--from: found no --text" in capsys.readouterr().err
    main(["import", str(folder), "--out", str(tmp_path / "plain"), "--segment", "16"])
    capsys.readouterr()
    assert main(["train", "--from", str(tmp_path / "plain"), "--text", text, "--out", str(tmp_path / "b"), "--segments",
                 "2", "--freeze", "base"]) == 2
    assert "--freeze base: found a model without a memory's parameters" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- generate, perplexity


def test_generate_prints_as_it_comes_and_perplexity_says_what_the_memory_is_worth(run, capsys):
    capsys.readouterr()
    assert main(["generate", str(run), "Mary moved", "--tokens", "30"]) == 0
    out, error = capsys.readouterr()
    model = run_dir.load(run)[0]
    assert out == f"Mary moved{model.generate('Mary moved', tokens=30)}\n"
    assert "tokens per second" in error
    assert main(["perplexity", str(run), "--text", str(run.parent / "text.txt")]) == 0
    losses, frozen = (model.surprise(TEXT.strip(), frozen=frozen).mean() for frozen in (False, True))
    out = capsys.readouterr().out
    assert f"{losses:.4f}" in out
    assert f"{frozen:.4f}" in out


def test_drawn_tokens_come_from_their_seed(run):
    model = run_dir.load(run)[0]
    one, same, other = (model.generate("Mary", tokens=12, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert model.generate("Mary", tokens=12, temperature=1.0, top_p=1e-9) == model.generate("Mary", tokens=12)


@pytest.mark.parametrize("length", [2, 16, 17, 33, 40])
def test_the_surprise_of_a_text_is_the_loss_of_each_token(run, length):
    model = run_dir.load(run)[0]
    ids = np.random.default_rng(0).integers(0, 300, length)
    logits, _ = story_forward(model.params, ids=ids[None], cfg=model.cfg)
    z = logits[0, :-1].astype(np.float64)
    expected = np.log(np.exp(z).sum(-1)) - z[np.arange(length - 1), ids[1:]]
    found = model.surprise(ids.tolist())
    assert found.shape == (length - 1,)
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("more", [
    ["--temperature", "nan"], ["--temperature", "-1"], ["--top-p", "1.5"], ["--tokens", "0"]])
def test_bad_options_of_generate_are_one_line(run, capsys, more):
    capsys.readouterr()
    assert main(["generate", str(run), "Mary", *more]) == 2
    assert capsys.readouterr().err.count("\n") == 1
