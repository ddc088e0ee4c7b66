"""The baselines of LM2: models with other memories and equal numbers of parameters."""

from dataclasses import replace

from tinylm2.model import with_params_of

MEMORY_TOKENS = 8                                        # of the recurrent memory transformer
NAMES = ("lm2", "pooled", "none", "rmt", "full")
_CHANGES = {"rmt": {"N": MEMORY_TOKENS}}


def baseline(name, cfg):
    """`cfg` with the memory of this name; F is set so that the number of parameters stays the same."""
    return with_params_of(cfg, replace(cfg, memory=name, **_CHANGES.get(name, {})))
