"""Assignment 6: back through the segments, and the step that follows."""

import re

import numpy as np

from tinylm2.flat import Flat
from tinylm2.model import Config, param_shapes
from tutorials.assignments import feedback, trying
from tutorials.assignments.checks import Assignment, Pair, Test, Unit, call
from tutorials.assignments.context import Here

B = 2
LARGE = Config(V=50, D=32, L=2, H=2, G=2, F=48, N=8, T=16)


def _config(d, **variant):
    N, T, V, F = (int(n) for n in d.rng.permutation((5, 6, 7, 9)))
    cfg = Config(V=V, D=10, L=2, H=1, G=1, F=F, N=N, T=T, **variant)
    d.letters.update(B=B, T=T, N=N, F=F, D=cfg.D)
    return cfg


def _segment(**variant):
    return lambda d: _segment_of(d, _config(d, **variant))


def _segment_of(d, cfg):
    banks = tuple((d(B, cfg.N, cfg.D),) for _ in range(cfg.L))          # one per block, none for the segment
    return call(d.params(param_shapes(cfg)), (*banks, None), cfg=cfg, ids=d.ids(cfg.V, B, cfg.T))


SEGMENT = Pair("model", "segment", ("logits", "states"), draws={
    "plain": _segment(), "tied": _segment(tied=True), "nobody reads the new states": _segment(),
    "large": lambda d: _segment_of(d, LARGE)},
    unasked={"nobody reads the new states": (1,)}, questions={"sqrt(D)": "does the embedding come in times sqrt(D)?",
                                                            "1/sqrt(D)": "does the embedding come in times sqrt(D)?"})

# ---------------------------------------------------------------------------------------------------------------- story


def _story(segments=3, short=0, cfg=None, **constants):
    """The token V-1 stands in the first segment, and nowhere else."""
    def draw(d, cfg=cfg):
        cfg = cfg or _config(d)
        d.letters["S"] = segments
        ids = d.ids(cfg.V - 1, B, segments * cfg.T - short)
        ids[:, 0] = cfg.V - 1
        return call(d.params(param_shapes(cfg)), cfg=cfg, ids=ids, **constants)
    return draw


def _stops_at_the_cut(ctx, pair, inputs, constants, upstreams, gradients):
    """With the loss in the last segment, what stands only in the first learns from it through the states alone."""
    grads = gradients[0] if isinstance(gradients, tuple) else gradients
    row = grads.get("embed.W") if isinstance(grads, dict) else None
    if constants.get("last") and getattr(row, "ndim", 0) == 2:
        if constants.get("truncate") and row[-1].any():
            yield ('grads["embed.W"]: a token that stands only before the cut has a gradient, and truncate must stop '
                   "that of the state which enters the cut's segment")
        if not constants.get("truncate") and not row[-1].any():
            yield ('grads["embed.W"]: a token that stands only in the first segment has no gradient from a loss in the '
                   "last; the states' gradient, handed on from segment to segment, must carry it")


STORY = Pair("recurrence", "story", ("logits",), draws={
    "plain": _story(), "loss at the end only": _story(last=2), "a short last segment": _story(short=1),
    "cut before the last segment": _story(segments=4, last=2, truncate=3),
    "cut before every segment": _story(truncate=1),
    "recomputed": _story(recompute=True), "large": _story(cfg=LARGE)}, looks_back=(_stops_at_the_cut,))


def _is_flat(ctx):
    _, (params,), constants, (dlogits,) = STORY.drawn(ctx, "plain")
    arguments = {"params": params, "constants": constants, "dlogits": dlogits}
    found, truth = ctx.student("story", **arguments), ctx.truth("story", **arguments)
    if any(feedback.gradients(["params"], (params,), found["gradients"], truth["gradients"])):
        yield "not judged yet: its gradients must be right first"
    elif not found["flat"]:
        yield ("the gradients must be a Flat whose names look into one buffer: grads[name] += share adds into it, "
               "grads[name] = share would leave it")


# ------------------------------------------------------------------------------------------------------------ optimizer

SHAPES = {"embed.W": (5, 4), "attn.g": (4,), "ff.W": (4, 3), "bin": (3,)}
MATRICES = sum(np.prod(shape) for shape in SHAPES.values() if len(shape) > 1)         # a Flat has them first


WORTH = {"m": 0.25, "v": 0.25, "update": 0.5}            # of a step that moves the parameters
MOVED = "params.buffer is another array afterwards: the step must write into the one that it got"
SORTS = dict.fromkeys(("b1", "b2", "lr"), "number") | dict.fromkeys(("g", "m_hat", "v_hat"), "array")


def _names_of(entries):
    """Which arrays of SHAPES some entries of the buffer belong to."""
    marks = Flat(SHAPES, np, bool)
    marks.buffer[:] = entries
    return [name for name, x in marks.items() if x.any()]


def _line(what, a, n, **how):
    """As `feedback.array`, for a whole buffer: the worst entry is named by its array and its place there, and where
    not all arrays are wrong, those that are."""
    text = feedback.array(what, a, n, **how)
    if not text or getattr(a, "shape", None) != n.shape:
        return text
    wrong = _names_of(~(abs(a - n) <= 1e-10 * abs(n).max()))
    if len(wrong) < len(SHAPES):
        text = text.replace(f"{what} is wrong", f"{what} of {', '.join(wrong)} is wrong", 1)
    numbers = Flat(SHAPES, np, int)
    numbers.buffer[:] = np.arange(numbers.buffer.size)

    def place(match):
        for name, x in numbers.items():
            if hit := np.argwhere(x == int(match[1])).tolist():
                return f"at {name}{hit[0]}"
        return match[0]

    return re.sub(r"at \[(\d+)\]", place, re.sub(r", all at [\d, to]+ of axis 0", "", text))


def _stepped(steps, decay):
    def check(ctx):
        draws = [_updates(ctx, steps, decay), _updates(ctx, steps, decay)]
        arguments, found, truth, answer = draws[0]
        for i in range(steps):
            names = [name for name in ("m", "v", "update") if feedback.array(name, found[i][name], truth[i][name])]
            if names:
                moved = isinstance(found[i]["update"], np.ndarray) and found[i]["update"].any()
                ctx.share = sum(worth for name, worth in WORTH.items() if name not in names) if moved else 0.0
                if not answer["in place"]:
                    yield MOVED
                if any(variant.name == "AdamW" for variant in ctx.variants):
                    if _is_the_librarys(arguments, found):
                        ctx.share = 0.0
                        yield "it takes AdamW's steps, as the lessons do; the sheet asks for others"
                else:                                    # what is tried are changes of the library's equation
                    yield from feedback.explanations(trying.explain(*(_trial(draw, i) for draw in draws)))
                yield from _of_the_first_step(arguments, found[0], truth[0]) if i == 0 else ()
                for name in names:
                    again = {name: (draws[1][1][i][name], draws[1][2][i][name])}
                    yield f"{_line(name, found[i][name], truth[i][name], how=feedback.How(again=again))} (step {i + 1})"
                return
        gradients = arguments["gradients"]
        if any(not np.array_equal(one["grads"], g) for one, g in zip(found, gradients, strict=True)):
            yield "it changed grads in place, and the caller may still want them"
        if not answer["in place"]:
            yield MOVED
        if answer["t"] != steps:
            yield f"t is {answer['t']} after {steps} steps: it counts them"
    return check


def _updates(ctx, steps, decay):
    """(arguments, the student's steps, the right ones, the student's answer), each step with its update, which is what
    the parameters moved by: of the parameters themselves a wrong step changes little."""
    d = ctx.draw()
    start = d(sum(int(np.prod(shape)) for shape in SHAPES.values()))
    arguments = {"shapes": SHAPES, "start": start, "rates": [0.1 / (i + 1) for i in range(steps)],
                 "gradients": [d(*start.shape, std=10.0**d.number(-2, 1)) for _ in range(steps)],
                 "options": {"decay": decay, "betas": (0.8, 0.95), "eps": 1e-3}}
    answers = [play("adamw", **arguments) for play in (ctx.student, ctx.truth)]
    return arguments, *(_with_updates(start, answer["steps"]) for answer in answers), answers[0]


def _is_the_librarys(arguments, found):
    """A student may have written what a lesson says."""
    right = Here().adamw(**arguments)["steps"]
    return all(isinstance(one[name], np.ndarray) and feedback.same(one[name], n[name])
               for one, n in zip(found, right, strict=True) for name in ("m", "v", "params"))


def _with_updates(start, steps):
    starts = [start, *(step["params"] for step in steps)]
    return [{**step, "update": step["params"] - before} for step, before in zip(steps, starts, strict=False)]


def _trial(draw, i):
    """For `trying.explain`: the first i + 1 steps of an optimizer whose step has a mistake."""
    arguments, found, truth, _ = draw

    def stepped(step):
        params = Flat(SHAPES, np, "float64", arguments["start"].copy())
        optimizer = trying.plain.AdamW(params, **arguments["options"])
        for g, rate in list(zip(arguments["gradients"], arguments["rates"], strict=True))[:i + 1]:
            before = params.buffer.copy()
            step(optimizer, params, Flat(SHAPES, np, "float64", g.copy()), rate)
        return {"m": optimizer.m, "v": optimizer.v, "update": params.buffer - before}

    runs = ((text, lambda step=step: stepped(step)) for text, step in trying.changed("AdamW.step", SORTS))
    return runs, *({name: steps[i][name] for name in ("m", "v", "update")} for steps in (found, truth))


def _of_the_first_step(arguments, one, right):
    """What the first step should have been: decay, and then the rate against the sign of the gradient."""
    start, options, rate = arguments["start"], arguments["options"], arguments["rates"][0]
    b1, b2 = options["betas"]
    off, wrong = one["update"] - right["update"], abs(one["update"] - right["update"]) > 1e-8
    decayed = rate * options["decay"] * start[:MATRICES]
    moved = right["update"].copy()
    moved[:MATRICES] += decayed                                          # without decay
    uncorrected = (1 - b1) / (1 - b2) ** 0.5
    if not wrong.any():
        return
    if options["decay"] and not wrong[:MATRICES].any():
        yield f"update: {', '.join(_names_of(wrong))} moved by weight decay, which is for matrices only"
    elif options["decay"] and not wrong[MATRICES:].any():
        why = "weight decay is missing" if np.allclose(off[:MATRICES], decayed) else \
            "weight decay is not times the rate" if np.allclose(off[:MATRICES], decayed - decayed / rate) else \
            "what differs is weight decay"
        yield f"update: only matrices are wrong ({', '.join(_names_of(wrong))}): {why}"
    elif np.allclose(one["update"], moved * uncorrected, rtol=2e-2) and not options["decay"]:
        yield (f"update: the first step is about {uncorrected:.3f} times what it should be, (1 - b1) / sqrt(1 - b2): "
               "are m and v corrected for having started at zero?")
    elif np.allclose(one["update"], -moved, rtol=1e-3) and not options["decay"]:
        yield "update: the step goes up the gradient: is the sign flipped?"


def _clipped(size):
    def check(ctx):
        draws = [_clip_draw(ctx, size) for _ in range(2)]
        arguments, found, truth = draws[0]
        g = arguments["gradients"]
        text = feedback.array("norm", found["norm"], np.float64(truth["norm"]))
        lines = _line("grads", found["grads"], truth["grads"])
        if text or lines:
            ctx.share = 0.5 * (not (text and lines))
            yield from feedback.explanations(trying.explain(*map(_clip_trial, draws)))
        if text:
            after = np.sqrt(found["grads"] @ found["grads"]) if size else 0
            yield text + (": it is the norm afterwards, and the one before is asked for"
                          if np.allclose(found["norm"], after) else "")
        if lines:
            after = found["grads"] if isinstance(found["grads"], np.ndarray) else g
            turned = size and abs(after @ g) < (1 - 1e-9) * np.sqrt((after @ after) * (g @ g))
            yield lines + (": one factor must scale them all, and here their direction changes" if turned else
                           f" (their norm is {size:g} times the limit)" if size else " (all gradients are zero)")
        if not found["in place"]:
            yield "grads.buffer is another array afterwards: it must be scaled in place"
    return check


def _clip_draw(ctx, size):
    """(arguments, what the student's clip gives, what is right)"""
    d = ctx.draw()
    g = d(sum(int(np.prod(shape)) for shape in SHAPES.values()))
    limit = float(np.sqrt(g @ g)) / size if size else 1.0
    arguments = {"shapes": SHAPES, "gradients": g if size else 0 * g, "limit": limit}
    return arguments, *(play("clipped", **arguments) for play in (ctx.student, ctx.truth))


def _clip_trial(draw):
    """For `trying.explain`: a clip with a mistake, asked the same."""
    arguments, *both = draw

    def clipped(clip):
        grads = Flat(SHAPES, np, "float64", arguments["gradients"].copy())
        return {"norm": np.float64(clip(grads, arguments["limit"])), "grads": grads.buffer}

    runs = ((text, lambda clip=clip: clipped(clip)) for text, clip in trying.changed("clip"))
    return runs, *({"norm": np.asarray(one["norm"]), "grads": one["grads"]} for one in both)


CLIP = [Test("clip", *test) for test in (
    ("above the limit", 6, _clipped(4.0)), ("below the limit", 4, _clipped(0.5)), ("all zero", 2, _clipped(0)))]
ADAMW = [Test("AdamW.step", *test) for test in (
    ("one step", 9, _stepped(1, 0.0)), ("ten steps", 9, _stepped(10, 0.0)), ("with decay", 10, _stepped(3, 0.4)))]

ASSIGNMENT = Assignment("a6", "back through the segments, and the step", (
    Unit(("model.segment_backward",), (
        SEGMENT.right_back("plain", 14, given=True), SEGMENT.right_back("tied", 5, given=True),
        SEGMENT.right_back("nobody reads the new states", 4, given=True), SEGMENT.keeps_contract_back(4, given=True))),
    Unit(("recurrence.story_backward",), (
        STORY.right_back("plain", 10, given=True), STORY.right_back("loss at the end only", 5, given=True),
        STORY.right_back("cut before the last segment", 5, given=True),
        STORY.right_back("cut before every segment", 3, given=True), STORY.right_back("recomputed", 3, given=True),
        STORY.right_back("a short last segment", 2, given=True), Test("story_backward", "a Flat", 3, _is_flat),
        STORY.keeps_contract_back(2, given=True))),
    Unit(("optim.clip", "optim.AdamW.step"), (*CLIP, *ADAMW)),
), needs=("gradcheck.check_grads", "model.Config", "model.init_params", "recurrence.story_forward"))
