"""`count`: what it says of a model without making one is what the made one has and does."""

from dataclasses import replace

import numpy as np
import pytest

from tests import small
from tinylm2 import __main__, ops
from tinylm2.cli import count as counting
from tinylm2.model import first_banks, segment_forward


def test_the_parts_add_up_to_all_parameters(cfg):
    assert sum(counting.parameters(cfg).values()) == small.params(cfg).buffer.size


def test_multiply_adds_are_those_of_a_forward_pass(cfg, monkeypatch):
    done, linear, attend = [], ops.linear_forward, ops.attend_forward

    def counted_linear(x, W):
        done.append(x.size // len(x) * W.shape[1])       # of one story
        return linear(x, W)

    def counted_attend(q, k, v, **constants):
        done.append(2 * q[0].size * k.shape[1])          # scores, and the sums of values
        return attend(q, k, v, **constants)

    monkeypatch.setattr(ops, "linear_forward", counted_linear)
    monkeypatch.setattr(ops, "attend_forward", counted_attend)
    params = small.params(cfg)
    segment_forward(params, first_banks(params, cfg, 3), ids=small.ids(cfg, cfg.T), cfg=cfg)
    printing = sum(cfg.memory_of(i) == "printed" for i in range(cfg.L))
    averages = printing * 2 * cfg.N * cfg.T * cfg.D      # two products that are no `linear`
    assert sum(counting.multiply_adds(cfg).values()) == sum(done) + averages


def test_training_stores_four_numbers_a_parameter_and_a_bank_for_each_block_that_has_one():
    cfg = replace(small.CFG, memory_blocks=(1,))
    stored, params = counting.stored(cfg), small.params(cfg)
    assert stored["parameters, gradients and two moments"] == 16 * params.buffer.size
    banks = [M for M in first_banks(params, cfg, 1) if M is not None]
    assert stored["banks of a story"] == sum(4 * np.size(M) for M in banks)


@pytest.mark.parametrize("preset", counting.PRESETS)
def test_the_command_prints_the_whole_and_its_parts(preset, capsys):
    assert __main__.main(["count", "--preset", preset]) == 0
    said = capsys.readouterr().out
    assert f"{counting.count(counting.PRESETS[preset]):,}" in said
    assert all(part in said for part in counting.PARTS)
    assert "multiply-adds forward" in said


@pytest.mark.parametrize(("n", "said"), [(4_590_000_000_000, "4.59 T"), (999, "999"), (1_000, "1.00 k")])
def test_amounts_have_three_figures(n, said):
    assert counting.amount(n) == said
