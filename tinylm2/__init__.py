"""tinylm2: a Llama-style decoder with a gated memory (LM2), every gradient written by hand, for NumPy and CuPy alike.

The letters, everywhere the same:

    B  stories of a batch         T  tokens of a segment      S  segments of a story    N  slots of a memory bank
    D  width of the model         H  heads                    G  key/value heads        K  width of a head, D / H
    F  width of the feed-forward  V  words of the vocabulary  L  blocks                 A  tokens kept for the answer
    U  number of keys, where it differs from the number of queries T

The public names below are loaded when they are first used, so that `import tinylm2` is quick and needs NumPy alone.
"""

import os
from importlib import import_module
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")       # the products are small: two threads are slower than one

__version__ = "0.2.0"

_HOMES = {
    "model": ("Config", "init_params", "count_params", "first_states", "segment_forward", "segment_backward"),
    "recurrence": ("story_forward", "story_backward"),
    "decoding": ("answer",),
    "ops": ("cross_entropy_forward", "cross_entropy_backward"),
    "optim": ("AdamW", "clip"),
    "gradcheck": ("check_grads",),
    "memories": ("MEMORIES",),
    "data": ("TASKS", "BookFiller", "BucketSampler", "Example", "GrammarFiller", "HaystackSampler", "Rng", "Stories",
             "Tokenizer", "bpe_tokenizer", "generated_examples", "read_examples", "word_tokenizer"),
    "training.step": ("loss_and_gradients", "train_step"),
    "training.trainer": ("Trainer",),
    "training.curriculum": ("Stage", "curriculum"),
    "training.settings": ("Settings",),
    "training.trained_model": ("TrainedModel", "new"),
    "inspect.evaluate": ("evaluate",),
    "inspect.trace": ("trace",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = ["__version__", "load", *_HOME]


def load(folder: Any, *, device: str = "cpu") -> Any:
    """The TrainedModel of a run's folder: `tinylm2.load("runs/tiny").ask(story, question)`."""
    from tinylm2.gpu import array_module
    from tinylm2.training import run_dir

    return run_dir.load(folder, xp=array_module(device))[0]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'tinylm2' has no attribute {name!r}")
    return getattr(import_module(f"tinylm2.{_HOME[name]}"), name)


def __dir__():
    return sorted(__all__)
