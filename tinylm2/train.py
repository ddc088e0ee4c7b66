"""Training: one step, and a run through the stages of a curriculum.

Every batch is a function of (seed, step), so a run continues from parameters, moments and `Progress`, bit for bit.
"""

import math
from dataclasses import asdict, dataclass, field

import numpy as np

from tinylm2.backend import get_xp, to_device, to_host
from tinylm2.data import Shape
from tinylm2.model import story_backward, story_forward
from tinylm2.ops import cross_entropy_backward, cross_entropy_forward
from tinylm2.optim import AdamW, clip, learning_rate

WINDOW = 20                                              # the losses that a stage's bar looks at


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


def curriculum(*, width, segments, steps, short=16):
    """The three stages that get answers learned. Told at full length from the start, names are never bound to places.

    A learns to bind a name to a place in two facts, A2 to find them in one full segment, B to keep them over segments.
    """
    stages = [
        Stage("A", Shape(facts=(2,), segments=(1,), width=short, filler=False), 128, 1000, bar=0.15, must=True),
        Stage("A2", Shape(facts=(2, 4, 6), segments=(1,), width=width), 64, 300, bar=0.25),
    ]
    if segments > 1 and steps:
        lengths = tuple(range(2, segments + 1))
        stages.append(Stage("B", Shape(facts=(2, 4, 6, 8, 10), segments=lengths, width=width, gap=0.7), 64, steps))
    return tuple(stages)


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


def train_step(params, optimizer, batch, *, cfg, rate, limit=1.0, lm=0.0, truncate=None, replay=False):
    """Forward, loss, backward, clip, update, in place.  -> (loss, gradient norm, right (B,)), on the host.

    loss = cross-entropy at the answer + lm * cross-entropy at every token, both means. A row is right when every answer
    token and the end are the likeliest. All three numbers come back in one copy, the only one of the step.
    """
    xp = get_xp(params.buffer)
    ids, targets, weights = (to_device(x, xp) for x in (batch.ids, batch.targets, batch.weights))
    tail = None if lm else batch.tail
    logits, cache = story_forward(params, ids=ids, cfg=cfg, pad=batch.pad, tail=tail, truncate=truncate, replay=replay)
    targets, weights = targets[:, -logits.shape[1]:], weights[:, -logits.shape[1]:]
    loss, loss_cache = cross_entropy_forward(logits, targets=targets, weights=weights)
    (dlogits,) = cross_entropy_backward(1.0, loss_cache)
    if lm:
        lm_loss, lm_cache = cross_entropy_forward(logits, targets=targets, weights=to_device(batch.lm_weights, xp))
        loss = loss + lm * lm_loss
        dlogits += cross_entropy_backward(lm, lm_cache)[0]
    right = ((logits.argmax(-1) == targets) | (weights == 0)).all(-1)
    grads = story_backward(dlogits, cache)
    norm = clip(grads, limit)
    optimizer.step(params, grads, rate)
    numbers = to_host(xp.concatenate((xp.stack((loss, norm)), right.astype(loss.dtype))))
    return float(numbers[0]), float(numbers[1]), numbers[2:] > 0


class Run:
    """A model in training: `for metrics in run.steps(): ...` until the curriculum ends.

    stories: a `tinylm2.data.Stories`. After each step `metrics` is a dict of plain numbers, one line of metrics.jsonl.
    """

    def __init__(self, params, *, cfg, stories, stages, peak=6e-3, warmup=100, lm=0.0, truncate=None, replay=False):
        self.params, self.cfg, self.stories, self.stages = params, cfg, stories, stages
        self.peak, self.warmup, self.lm, self.truncate, self.replay = peak, warmup, lm, truncate, replay
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
            yield self.step()
            self._turn()

    def step(self):
        """One training step; its metrics."""
        p, stage = self.progress, self.stage
        last = p.stage == len(self.stages) - 1
        rate = learning_rate(self.peak, p.step, warmup=self.warmup, decay_from=p.first if last else None,
                             decay_steps=stage.steps)
        batch = self.stories.batch(stage.shape, p.step, stage.size)
        loss, norm, right = train_step(self.params, self.optimizer, batch, cfg=self.cfg, rate=rate, lm=self.lm,
                                       truncate=self.truncate, replay=self.replay)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFinite(f"step {p.step}: the loss is {loss}, the gradient's norm {norm}, expected finite numbers")
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

