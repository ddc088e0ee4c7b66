"""Assignment 7: a memory of your own. Its functions are the student's idea, so they are held against themselves.

    python -m tutorials.assignments.a7 handout -o FOLDER       the folder that students get
    python -m tutorials.assignments.a7 grade my_a7.py          points, and a line for the leaderboard
    python -m tutorials.assignments.a7 reference               train the models that it is compared with, once

There is no library solution to compare with. Gradients are compared with central differences of the student's own
forward, and everything else with what every memory must do. A minute of training then says what the memory is worth:
that gives no points.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinylm2 import decoding
from tinylm2.cli.console import Parser, command, whole
from tinylm2.data import (
    TASKS,
    GrammarFiller,
    Stories,
    encode_examples,
    generated_examples,
    make_prompts,
    word_tokenizer,
)
from tinylm2.errors import BadInput
from tinylm2.gradcheck import central_differences, leaves
from tinylm2.model import Config, count_params, init_params, sum_dicts, sum_states, with_params_of
from tinylm2.training.curriculum import curriculum
from tinylm2.training.step import NotFinite
from tinylm2.training.trainer import NotLearned, Trainer
from tutorials.assignments import handout
from tutorials.assignments.checks import Test, Unit
from tutorials.assignments.client import Failed, Limits
from tutorials.assignments.grader import grade, what_is_lacking
from tutorials.assignments.own_memory import FILE, NEEDED, MemoryClient, OwnMemory, Remote, registered
from tutorials.assignments.submission import read as read_submission

NAME = "own"                                             # of the student's memory in the library's table
B, LENGTHS, PAD = 2, (5, 5, 3), np.array([2, 0])         # stories, and the segments of a chain; padding in the first
CFG = Config(V=11, D=8, L=1, H=2, G=1, F=6, N=3, T=5, memory="none")
EPS, TOLERANCE, DIRECTIONS = 1e-5, 1e-5, 3
LIMITS = Limits(seconds=20.0, total=120.0)


# -------------------------------------------------------------------------------------------- what every memory must do


class Chain:
    """Three short segments of two stories, and a student's memory that reads and writes them."""

    def __init__(self, ctx, dtype="float64"):
        self.remote, self.draw = Remote(ctx.worker.client), ctx.draw(dtype)
        shapes = {**self.remote.param_shapes(CFG), "attn.Wqkv": (CFG.D, 4 * CFG.K), "attn.Wo": (2 * CFG.K, CFG.D)}
        starts = self.remote.VECTORS
        self.p = {name: self.draw(*shape, mean=starts.get(name, 1.0), std=0.3) if len(shape) == 1 else
                  self.draw(*shape, std=shape[0] ** -0.5) for name, shape in shapes.items()
                  if name not in ("mem.Wout", "mem.bout")}
        self.segments = [(self.draw(B, T, CFG.D), *(self.draw(B, T, CFG.G, CFG.K) for _ in range(2))) for T in LENGTHS]

    def first(self):
        return self.remote.first_forward(self.p, cfg=CFG, B=B)

    def read(self, n, state):
        return self.remote.read_forward(n, state, self.p, cfg=CFG)

    def write(self, segment, state, pad=None):
        n, k, v = segment
        return self.remote.write_forward((n, None, k, v), state, self.p, cfg=CFG, pad=pad)

    def run(self):
        """What every segment reads, the last state, and the caches."""
        self.remote.begin()
        state, first = self.first()
        ys, caches = [], []
        for s, segment in enumerate(self.segments):
            y, read = self.read(segment[0], state)
            state, write = self.write(segment, state, PAD if s == 0 else None)
            ys.append(y)
            caches.append((read, write))
        return ys, state, (first, caches)

    def back(self, dys, dstate, cache):
        """Gradients at p, and at the first segment's rows, keys and values."""
        (first, caches), dp, dsegment = cache, {}, None
        for dy, (read, write) in zip(reversed(dys), reversed(caches), strict=True):
            dsegment, dstate, share = self.remote.write_backward(dstate, write)
            dn, dstate_read, share_read = self.remote.read_backward(dy, read)
            dstate, dp = sum_states(dstate_read, dstate), sum_dicts(sum_dicts(dp, share), share_read)
            dsegment = (dn if dsegment[0] is None else dn + dsegment[0], *dsegment[2:])
        dstate = tuple(np.zeros((B, *shape)) if d is None else d
                       for d, shape in zip(dstate, self.remote.state_shapes(CFG).values(), strict=True))
        return sum_dicts(dp, self.remote.first_backward(dstate, first)), dsegment

    def written(self):
        """A state that holds something: after two segments."""
        state, _ = self.first()
        for segment in self.segments[:2]:
            state, _ = self.write(segment, state)
        return state


def slopes_of(f, arrays, gradients, rng):
    """A line for each array whose gradient is not the slope of f() along random directions."""
    wrong = []
    for name, x in arrays.items():
        moves = (rng.integers(0, 2, (DIRECTIONS, *x.shape)) * 2.0 - 1) / x.size**0.5
        slopes = central_differences(f, x, moves, eps=EPS)
        claimed = np.zeros(DIRECTIONS) if gradients.get(name) is None else np.array(
            [(gradients[name] * move).sum() for move in moves])
        error = abs(claimed - slopes).max() / max(abs(slopes).max(), 1e-3)
        if not error <= TOLERANCE:
            wrong.append(f"d{name} is not the slope of the forward: along random directions it says "
                         f"{claimed[0]:.4g} where central differences say {slopes[0]:.4g}"
                         + (": is it left out?" if not claimed.any() else ""))
    return wrong


def smooth(test):
    """Try twice with other numbers: where a maximum switches, differences mean nothing. A wrong gradient stays so."""
    def check(ctx):
        lines = []
        for _ in range(2):
            lines = list(test(ctx))
            if not lines:
                return
        yield from lines
    return check


def _weighed(outputs, dys):
    return np.concatenate([(dy * y).reshape(-1) for dy, y in zip(dys, outputs, strict=True)])


@smooth
def _read_gradients(ctx):
    chain = Chain(ctx)
    n, state = chain.draw(B, 4, CFG.D), tuple(x.copy() for x in chain.written())
    y, cache = chain.read(n, state)
    dy = chain.draw(*y.shape)
    dn, dstate, dp = chain.remote.read_backward(dy, cache)
    arrays = {"n": n, **dict(zip(chain.remote.state_shapes(CFG), state, strict=True)), **chain.p}
    gradients = {"n": dn, **dict(zip(chain.remote.state_shapes(CFG), dstate, strict=True)), **dp}
    yield from slopes_of(lambda: _weighed((chain.read(n, state)[0],), (dy,)), arrays, gradients, chain.draw.rng)


@smooth
def _write_gradients(ctx):
    chain = Chain(ctx)
    segment, state = chain.segments[2], tuple(x.copy() for x in chain.written())
    after, cache = chain.write(segment, state, np.array([1, 0]))
    dstate = tuple(chain.draw(*x.shape) for x in after)
    dseg, dold, dp = chain.remote.write_backward(dstate, cache)
    names = list(chain.remote.state_shapes(CFG))
    arrays = {**dict(zip("nkv", segment, strict=True)), **dict(zip(names, state, strict=True)), **chain.p}
    gradients = {"n": dseg[0], "k": dseg[2], "v": dseg[3], **dict(zip(names, dold, strict=True)), **dp}
    yield from slopes_of(lambda: _weighed(chain.write(segment, state, np.array([1, 0]))[0], dstate), arrays, gradients,
                         chain.draw.rng)


@smooth
def _chain_gradients(ctx):
    chain = Chain(ctx)
    ys, state, cache = chain.run()
    dys, dstate = [chain.draw(*y.shape) for y in ys], tuple(chain.draw(*x.shape) for x in state)
    dp, dsegment = chain.back(dys, dstate, cache)

    def f():
        ys, state, _ = chain.run()
        return _weighed((*ys, *state), (*dys, *dstate))

    arrays = {**dict(zip("nkv", chain.segments[0], strict=True)), **chain.p}
    yield from (f"over three segments, {line}" for line in
                slopes_of(f, arrays, {**dict(zip("nkv", dsegment, strict=True)), **dp}, chain.draw.rng))


def _first_is_the_same_for_all(ctx):
    chain = Chain(ctx)
    state, _ = chain.first()
    for name, x in zip(chain.remote.state_shapes(CFG), state, strict=True):
        if not np.array_equal(x[0], x[1]):
            yield f"{name} differs between stories before anything was read"
        if not np.isfinite(x).all():
            yield f"{name} holds numbers that are not finite"


def _read_keeps_contract(ctx):
    """Shapes and dtypes are checked with every answer, by `Remote`."""
    for dtype in ("float64", "float32"):
        chain = Chain(ctx, dtype)
        state, _ = chain.first()
        n = chain.segments[0][0]
        y, cache = chain.read(n, state)
        chain.read(chain.draw(*n.shape), state)
        again, _ = chain.read(n, state)
        if not np.array_equal(y, again):
            yield "asked the same twice, it answers differently: does something beside its arguments remember?"
        dy = chain.draw(*y.shape)
        one, two = (chain.remote.read_backward(dy, cache) for _ in range(2))
        if any(not np.array_equal(a, b) for (_, a), (_, b) in zip(leaves(one), leaves(two), strict=True)):
            yield "read_backward answers differently when it is asked twice with one cache: does it write into it?"


def _sees_no_future(ctx):
    chain = Chain(ctx)
    state, n = chain.written(), chain.segments[0][0]
    y, _ = chain.read(n, state)
    for t in range(1, n.shape[1]):
        changed = n.copy()
        changed[:, t:] = chain.draw(B, n.shape[1] - t, CFG.D)
        if not np.array_equal(chain.read(changed, state)[0][:, :t], y[:, :t]):
            yield (f"what a token reads moves when a later one changes (position {t} moves an earlier one): row t of y "
                   "may depend on row t of n and on the state alone")
            return


def _stories_apart(ctx):
    chain = Chain(ctx)
    state = chain.written()
    y, _ = chain.read(chain.segments[0][0], state)
    after, _ = chain.write(chain.segments[0], state)
    other, other_state = (tuple(np.concatenate((x[:1], chain.draw(*x[1:].shape))) for x in part)
                          for part in (chain.segments[0], state))
    y_other, _ = chain.read(other[0], other_state)
    after_other, _ = chain.write(other, other_state)
    if not np.allclose(y[0], y_other[0], rtol=1e-12, atol=1e-14):
        yield "what one story reads moves with another story of the batch"
    if any(not np.allclose(a[0], b[0], rtol=1e-12, atol=1e-14) for a, b in zip(after, after_other, strict=True)):
        yield "the state of one story moves with another story of the batch"


def _padding_is_inert(ctx):
    chain = Chain(ctx)
    state, pad = chain.written(), np.array([2, 1])
    after, cache = chain.write(chain.segments[0], state, pad)
    changed = [x.copy() for x in chain.segments[0]]
    for x in changed:
        x[0, :2], x[1, :1] = 7.0, -5.0
    other, _ = chain.write(tuple(changed), state, pad)
    for name, a, b in zip(chain.remote.state_shapes(CFG), after, other, strict=True):
        if not np.array_equal(a, b):
            yield f"{name} moves with what stands in the padding: the first pad[b] positions of story b do not count"
            return
    dseg, _, _ = chain.remote.write_backward(tuple(chain.draw(*x.shape) for x in after), cache)
    if any(d is not None and (d[0, :2].any() or d[1, :1].any()) for d in dseg):
        yield "the padding has a gradient"


def _stays_as_large(ctx):
    """Shapes are checked with every answer; here over 40 segments of several lengths, in single precision."""
    chain = Chain(ctx, "float32")
    state, _ = chain.first()
    for s in range(40):
        T = (5, 3, 1)[s % 3]
        state, _ = chain.write((chain.draw(B, T, CFG.D), *(chain.draw(B, T, CFG.G, CFG.K) for _ in range(2))), state)
        chain.remote.begin()
    largest = max(abs(x).max() for x in state)
    if not largest < 1e6:                                # NaN is not, either
        yield f"after 40 segments the state holds numbers up to {largest:.1e}: it grows for ever"


def _remembers(ctx):
    chain = Chain(ctx)
    ys, _, _ = chain.run()
    chain.segments[0] = tuple(chain.draw(*x.shape) for x in chain.segments[0])
    others, _, _ = chain.run()
    if np.array_equal(ys[2], others[2]):
        yield "what the third segment reads does not depend on the first: nothing is carried on"


TESTS = [Test(*test) for test in (
    ("first_forward", "equal for all stories", 5, _first_is_the_same_for_all),
    ("read_forward", "keeps its contract", 5, _read_keeps_contract),
    ("read_forward", "sees no later token", 10, _sees_no_future),
    ("read_forward", "finds what was written", 10, _remembers),
    ("read_backward", "right", 20, _read_gradients),
    ("write_forward", "stories apart", 5, _stories_apart),
    ("write_forward", "padding is inert", 10, _padding_is_inert),
    ("write_forward", "the state stays as large", 5, _stays_as_large),
    ("write_backward", "right", 20, _write_gradients),
    ("write_backward", "right over three segments", 10, _chain_gradients))]


class A7(OwnMemory):
    """The assignment; its worker holds a memory."""

    client, limits = MemoryClient, LIMITS


ASSIGNMENT = A7("a7", "a memory of your own", (Unit(tuple(f"{FILE}.{name}" for name in NEEDED), tuple(TESTS)),))


# ------------------------------------------------------------------------------------------------- a minute of training

REFERENCE = Path(__file__).with_name("a7_reference.json")
PLAN = {"segments": [4], "steps": [450]}                 # behind the stages A and A2, about 300 steps
QUESTIONS, SEGMENTS, SEED = 100, (4, 8, 16), 4004        # held out; the stories of training have the seed 0
SECONDS = 600                                            # that a student's functions may take in all of the training
RIVALS = ("lm2", "rmt", "none")


def trained(cfg, *, plan=PLAN, questions=QUESTIONS, begin=lambda: None, show=lambda text: None):
    """Train a model for about a minute of a core: {"accuracy", "steps", "seconds", "parameters", "learned"}.

    The model and its answers are made here; of a student's memory only the functions run elsewhere. begin() is called
    before every batch.
    """
    tokenizer, filler = word_tokenizer(), GrammarFiller()
    stories = Stories([TASKS["qa1"]], tokenizer=tokenizer, filler=filler, seed=0)
    params, began, learned = init_params(cfg, 0), time.process_time(), "yes"
    trainer = Trainer(params, cfg=cfg, stories=stories, stages=curriculum(segment_len=cfg.T, **plan))
    begin()
    try:
        for metrics in trainer.steps():
            begin()
            if metrics["step"] % 100 == 0:
                show(f"step {metrics['step']}, stage {metrics['stage']}, loss {metrics['loss']:.2f}")
    except NotLearned:
        learned = f"no: stage {trainer.stage.name}"
    except NotFinite:
        learned = "no: numbers that are not finite"
    accuracy = {}
    for count in SEGMENTS:
        rows, _ = encode_examples(generated_examples(TASKS["qa1"], questions, seed=SEED), count, tokenizer=tokenizer,
                                  filler=filler, segment_len=cfg.T, seed=SEED)
        correct = 0
        for start in range(0, len(rows), 50):
            begin()
            some = rows[start:start + 50]
            ids, pad = make_prompts(some)
            said = decoding.answer(params, ids=ids, cfg=cfg, answer_len=1, end=tokenizer.end, pad=pad)
            correct += int((said[:, 0] == [row.answer[0] for row in some]).sum())
        accuracy[str(count)] = correct / len(rows)
    return {"accuracy": accuracy, "steps": trainer.progress.step, "learned": learned,
            "seconds": round(time.process_time() - began), "parameters": int(params.buffer.size)}


def train_solution(solution, *, limits=LIMITS, **options):
    """The numbers of `trained` for a student's memory, of LM2's size; or a line that says why there are none."""
    file = read_submission(solution, ASSIGNMENT)
    like = Config(V=word_tokenizer().size)
    limits = replace(limits, seconds=SECONDS, total=SECONDS)
    client = MemoryClient(ASSIGNMENT, ASSIGNMENT.functions, file.source, limits, time.monotonic() + SECONDS)
    with client:
        try:
            client.start()
            remote = Remote(client)
            with registered(NAME, remote):
                cfg = with_params_of(like, replace(like, memory=NAME)) if _fits(remote, like) else None
                if cfg is None:
                    return "no leaderboard line: its parameters leave no room for a feed-forward"
                client.begin(SECONDS)
                return trained(cfg, begin=remote.begin, **options)
        except Failed as failed:
            return f"no leaderboard line: {failed.function or 'it'}: {failed.text}"


def _fits(remote, like):
    return count_params(replace(like, memory=NAME)) - 3 * like.D * like.L * (like.F - 8) < count_params(like)


def leaderboard(mine, name):
    """The table of a student's memory beside the others."""
    rows = {name: mine, **json.loads(REFERENCE.read_text(encoding="utf-8"))["models"]}
    lines = [f"{'after a minute of training':<28}" + "".join(f"{n + ' segments':>13}" for n in map(str, SEGMENTS))
             + f"{'parameters':>12}{'steps':>7}"]
    for one, found in rows.items():
        lines.append(f"{one:<28}" + "".join(f"{found['accuracy'][str(n)]:>13.2f}" for n in SEGMENTS)
                     + f"{found['parameters']:>12,}{found['steps']:>7}"
                     + ("" if found["learned"] == "yes" else f"  learned: {found['learned']}"))
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------------- the commands


def _handout(args):
    folder, files = Path(args.out), handout.files(ASSIGNMENT, solved=args.solved)
    if taken := [path for path in files if (folder / path).exists()]:
        raise BadInput(f"{folder / taken[0]}: exists already, expected a folder without it")
    handout.write(files, folder)
    print(f"{folder}: {', '.join(path for path in files if '/' not in path)} and what they need of tinylm2")
    return 0


def _grade(args):
    report = grade(ASSIGNMENT, args.solution, seed=args.seed, limits=LIMITS)
    print(report)
    if lacking := what_is_lacking(report.walls):
        print(lacking, file=sys.stderr)
    found = None
    if not args.points_only and all(result.points for result in report.results if result.test.function.startswith(
            ("read", "write"))):
        found = train_solution(args.solution, show=lambda text: print(f"\r{text:<60}", end="", file=sys.stderr))
        print("", file=sys.stderr)
        print(found if isinstance(found, str) else "\n" + leaderboard(found, report.file))
    elif not args.points_only:
        print("\nno leaderboard line: a memory is trained when its reads and writes are right")
    if args.json:
        text = json.dumps(report.as_json() | {"leaderboard": found}, indent=1)
        Path(args.json).write_text(text + "\n", encoding="utf-8")
    return 0 if report.points == report.out_of else 1


def _reference(args):
    from experiments.baselines import baseline  # an installed package has no experiments

    like, models = Config(V=word_tokenizer().size), {}
    for name in RIVALS:
        models[name] = trained(baseline(name, like), show=lambda text, name=name: print(f"{name}: {text}", flush=True))
        print(name, models[name], flush=True)
    REFERENCE.write_text(json.dumps({"plan": PLAN, "questions": QUESTIONS, "models": models}, indent=1) + "\n",
                         encoding="utf-8")
    return 0


@command
def main(argv=None):
    parser = Parser(prog="python -m tutorials.assignments.a7", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("handout", help="write the folder that students get")
    one.add_argument("-o", "--out", required=True, help="the folder")
    one.add_argument("--solved", action="store_true", help="with a small memory in place of the stubs")
    one.set_defaults(run=_handout)
    one = commands.add_parser("grade", help="test a memory, count its points, train it for a minute")
    one.add_argument("solution", help="the student's file, such as my_a7.py")
    one.add_argument("--seed", type=whole(0), help="seed of the random arguments (a new one each time)")
    one.add_argument("--json", metavar="FILE", help="write the report for a learning platform")
    one.add_argument("--points-only", action="store_true", help="do not train it")
    one.set_defaults(run=_grade)
    one = commands.add_parser("reference", help="train the models of the leaderboard: a minute of a core each")
    one.set_defaults(run=_reference)
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
