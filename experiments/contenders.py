"""Who is compared: five models with as many parameters, each a module of the same five functions."""

from dataclasses import replace
from math import prod
from types import SimpleNamespace

from baselines import full, rmt
from tinylm2 import generate, model

LM2 = SimpleNamespace(param_shapes=model.param_shapes, init_params=model.init_params, answer=generate.answer,
                      story_forward=model.story_forward, story_backward=model.story_backward)
MEMORY_TOKENS = 8                                        # of the recurrent memory transformer

# name -> (module, what it makes of LM2's Config)
_CONTENDERS = {
    "slots": (LM2, lambda cfg: cfg),
    "printed": (LM2, lambda cfg: replace(cfg, memory="printed")),
    "none": (LM2, lambda cfg: replace(cfg, memory="none")),
    "rmt": (rmt, lambda cfg: replace(cfg, memory="none", N=MEMORY_TOKENS)),
    "full": (full, full.config),
}
NAMES = tuple(_CONTENDERS)


def contender(name, cfg):
    """(module, Config) of a contender; its feed-forward is as wide as gives it the parameters that `cfg` has."""
    module, change = _CONTENDERS[name]
    changed = change(cfg)
    spare = size(LM2, cfg) - size(module, changed)
    return module, replace(changed, F=changed.F + round(spare / (3 * cfg.D * cfg.L)))


def size(module, cfg):
    """How many numbers a model's parameters are."""
    return sum(prod(shape) for shape in module.param_shapes(cfg).values())
