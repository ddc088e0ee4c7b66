"""Training: one step, and a run through the stages of a curriculum.

Every batch is a function of (seed, step), so a run continues from parameters, moments and `Progress`, bit for bit.
"""

import math
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from tinylm2 import model, ops
from tinylm2.backend import get_xp, to_device, to_host
from tinylm2.data import Shape
from tinylm2.diagnose import first_not_finite
from tinylm2.optim import AdamW, clip, learning_rate

WINDOW = 20                                              # the losses that a stage's bar looks at
MIXES = 1, 6, 12                                         # tasks that a growing mix has before it has all
LENGTHS = tuple(sorted({2**k for k in range(1, 13)} | {3 * 2**k for k in range(12)}))        # segments: 2 3 4 6 8 ...


@dataclass(frozen=True)
class Stage:
    """Part of a curriculum: rows of one `shape`, `size` a batch, for `steps` steps or until the mean of the last 20
    losses is below `bar`. A stage that `must` reach its bar ends the run when it does not."""

    name: str
    shape: Shape
    size: int
    steps: int
    bar: float | None = None
    must: bool = False


def curriculum(*, width, segments, steps, mixed=0, short=16):
    """The stages that get answers learned. Told at full length from the start, names are never bound to places.

    A learns to bind a name to a place in two facts, A2 to find them in one full segment, B to keep them over segments.
    A's bar is low because two names that are still mistaken for each other in A stay so, and with four names one such
    pair costs only .04: few stories name both, and the end token, which costs nothing, halves the mean.
    segments and steps: B's longest story and its length, one after another where there are several ("4,8,16" teaches
    to keep facts longer and longer); 0 segments are stories without filler. mixed: how many tasks a mix has; it is
    `growing` before B. 0 is qa1 alone.
    """
    if mixed:
        facts = (None, None, 2, 4, 6, 8, 10)
        sizes = [size for size in MIXES if size < mixed] + [mixed]
        stages = list(growing([(size, 600 if size == 1 else 400, 500) for size in sizes], width=width))
    else:
        facts = (2, 4, 6, 8, 10)
        first = Shape(facts=(2,), segments=(1,), width=short, filler=False)
        stages = [Stage("A", first, 128, 1000, bar=0.02, must=True),
                  Stage("A2", Shape(facts=(2, 4, 6), segments=(1,), width=width), 64, 300, bar=0.05)]
    for longest, count in zip(segments, steps, strict=True):
        name = "B" if len(segments) == 1 else f"B{longest}"
        if longest == 0:
            shape = _natural(width)
        else:
            lengths = tuple(n for n in LENGTHS if n <= longest) or (1,)
            shape = Shape(facts=facts, segments=lengths, width=width, gap=0.7)
        if count:
            stages.append(Stage(name, shape, 64, count))
    return tuple(stages)


def growing(plan, *, width, size=64):
    """Stages of a mix that grows, without filler: rows of `plan` are (so many tasks, steps told short, steps told in
    full), `size` stories a batch on average, twice as many in the very first. Each but the last ends when it has
    learned.

    All at once, twenty tasks are learned six times as slowly: most of them ask who is where, and a twentieth of a batch
    teaches that badly. The first task is told alone and shortest of all, so that no two names are mistaken for each
    other; and each mix is told short before it is told in full, for a question that needs a long story is answered at
    random for thousands of steps otherwise.
    """
    stages = []
    for tasks, brief, full in plan:
        told = replace(_natural(width), tasks=tasks)
        first = Stage(f"A{tasks}", replace(told, facts=(1, 2, None)), size, brief, bar=0.02)
        if tasks == 1:
            first = replace(first, shape=replace(told, facts=(1, 2)), size=2 * size)
        stages += [first, Stage(f"G{tasks}", told, size, full, bar=0.02)]
    return (*stages[:-1], replace(stages[-1], bar=None))


def _natural(width):
    """Rows without filler: two in five told as the real files tell them, half of these with all of their questions."""
    return Shape(facts=(None, None, 2, 4, 6), segments=(None,), width=width, filler=False, every=0.5)


@dataclass
class Progress:
    """Where a run stands: what a checkpoint must hold beside parameters and moments."""

    step: int = 0
    stage: int = 0
    first: int = 0                                       # the step at which the stage began
    losses: list[float] = field(default_factory=list)    # of this stage, the last 20

    def state(self):
        return asdict(self)


class NotLearned(RuntimeError):
    """A stage that must reach its bar did not."""


class NotFinite(ArithmeticError):
    """The loss or the gradient is no longer a number."""


def train_step(params, optimizer, batch, *, rate, limit=1.0, **options):
    """Forward, loss, backward, clip, update, in place.  -> (the answer's loss, gradient norm, right (B,)), on the host.

    `options` are those of `loss_and_gradients`. All three numbers come back in one copy, the only one of the step.
    NotFinite where loss or gradient is no number: it says where that began, and nothing was updated.
    """
    xp = get_xp(params.buffer)
    loss, right, grads = loss_and_gradients(params, batch, **options)
    norm = clip(grads, limit)
    numbers = to_host(xp.concatenate((xp.stack((loss, norm)), right.astype(loss.dtype))))
    loss, norm = float(numbers[0]), float(numbers[1])
    if not (math.isfinite(loss) and math.isfinite(norm)):
        origin = first_not_finite(lambda: loss_and_gradients(params, batch, **options), params)
        raise NotFinite(f"the loss is {loss}, the gradient's norm {norm}; "
                        f"first not finite: {origin or 'the norm, of finite gradients'}")
    optimizer.step(params, grads, rate)
    return loss, norm, numbers[2:] > 0


def loss_and_gradients(params, batch, *, cfg, lm=0.0, truncate=None, replay=False, model=model):
    """The answer's loss of a batch, which rows are right (B,), and the gradients of all parameters, on their device.

    The gradients are those of cross-entropy at the answer + lm * cross-entropy at every token, both means. The loss is
    the first alone: a stage's bar asks what was learned of the answer, and next words stay uncertain for ever. A row is
    right when every answer token and the end are the likeliest. `model` is whatever has the pair `story_forward`,
    `story_backward`: LM2, or a model to compare it with.
    """
    xp = get_xp(params.buffer)
    ids, targets, weights = (to_device(x, xp) for x in (batch.ids, batch.targets, batch.weights))
    tail = None if lm else batch.tail
    logits, cache = model.story_forward(params, ids=ids, cfg=cfg, pad=batch.pad, tail=tail, truncate=truncate,
                                        replay=replay)
    loss, right, dlogits = _judge(logits, targets, weights, to_device(batch.lm_weights, xp) if lm else None, lm)
    del logits                                           # backward needs room, and has no use for them
    return loss, right, model.story_backward(dlogits, cache)


def _judge(logits, targets, weights, lm_weights, lm):
    """The answer's loss, which rows are right, and the gradient at the logits of the last positions."""
    targets, weights = targets[:, -logits.shape[1]:], weights[:, -logits.shape[1]:]
    loss, loss_cache = ops.cross_entropy_forward(logits, targets=targets, weights=weights)
    (dlogits,) = ops.cross_entropy_backward(1.0, loss_cache)
    if lm:
        _, lm_cache = ops.cross_entropy_forward(logits, targets=targets, weights=lm_weights)
        dlogits += ops.cross_entropy_backward(lm, lm_cache)[0]
    right = ((logits.argmax(-1) == targets) | (weights == 0)).all(-1)
    return loss, right, dlogits


class Run:
    """A model in training: `for metrics in run.steps(): ...` until the curriculum ends.

    stories: a `tinylm2.data.Stories`. After each step `metrics` is a dict of plain numbers, one line of metrics.jsonl.
    """

    def __init__(self, params, *, cfg, stories, stages, peak=6e-3, warmup=100, lm=0.0, truncate=None, replay=False,
                 model=model):
        self.params, self.cfg, self.stories, self.stages = params, cfg, stories, stages
        self.peak, self.warmup, self.lm, self.truncate, self.replay = peak, warmup, lm, truncate, replay
        self.model = model
        self.optimizer = AdamW(params)
        self.progress = Progress()

    def restore(self, moments, progress):
        """Continue where a checkpoint stood."""
        self.optimizer.m[...], self.optimizer.v[...] = moments["m"], moments["v"]
        self.optimizer.t = progress["step"]
        self.progress = Progress(**progress)

    @property
    def moments(self):
        return {"m": self.optimizer.m, "v": self.optimizer.v}

    @property
    def stage(self):
        return self.stages[self.progress.stage]

    @property
    def done(self):
        return self.progress.stage == len(self.stages)

    def steps(self):
        """Step until the last stage ends.  NotLearned where a bar must be reached and was not; NotFinite at once."""
        while not self.done:
            self._turn()                                 # here, for a checkpoint may follow on a stage's last step
            if not self.done:
                yield self.step()

    def step(self):
        """One training step; its metrics."""
        p, stage = self.progress, self.stage
        last = p.stage == len(self.stages) - 1
        rate = learning_rate(self.peak, p.step, warmup=self.warmup, decay_from=p.first if last else None,
                             decay_steps=stage.steps)
        batch = self.stories.batch(stage.shape, p.step, stage.size)
        try:
            loss, norm, right = train_step(self.params, self.optimizer, batch, cfg=self.cfg, rate=rate, lm=self.lm,
                                           truncate=self.truncate, replay=self.replay, model=self.model)
        except NotFinite as error:
            raise NotFinite(f"step {p.step}: {error}") from None
        metrics = {"step": p.step, "stage": stage.name, "loss": loss, "accuracy": float(right.mean()), "norm": norm,
                   "rate": rate, "tokens": batch.ids.size}
        names = np.array(batch.tasks)
        if len(set(batch.tasks)) > 1:
            metrics["tasks"] = {str(name): float(right[names == name].mean()) for name in np.unique(names)}
        p.step += 1
        p.losses = [*p.losses, loss][-WINDOW:]
        return metrics

    def _turn(self):
        """On to the next stage when this one is over."""
        p, stage = self.progress, self.stage
        passed = stage.bar is not None and len(p.losses) == WINDOW and sum(p.losses) / WINDOW < stage.bar
        if not passed and p.step - p.first < stage.steps:
            return
        if stage.must and not passed:
            raise NotLearned(f"binding was not learned: stage {stage.name} stands at a loss of "
                             f"{sum(p.losses) / len(p.losses):.2f} after {stage.steps} steps, expected {stage.bar}")
        p.stage, p.first, p.losses = p.stage + 1, p.step, []

