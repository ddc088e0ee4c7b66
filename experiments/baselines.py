"""What LM2 is compared with: models with as many parameters, each a memory of the library."""

from dataclasses import replace

from tinylm2.model import with_params_of

MEMORY_TOKENS = 8                                        # of the recurrent memory transformer
NAMES = ("lm2", "pooled", "none", "rmt", "full")
_CHANGES = {"rmt": {"N": MEMORY_TOKENS}}


def baseline(name, cfg):
    """The Config of a baseline; its feed-forward is as wide as gives it the parameters that `cfg` has."""
    return with_params_of(cfg, replace(cfg, memory=name, **_CHANGES.get(name, {})))
