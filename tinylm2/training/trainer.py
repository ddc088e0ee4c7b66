"""The trainer: takes a model through the stages of a curriculum.

Every batch is a function of (seed, step). So parameters, moments and `Progress` suffice to continue a run bit for bit.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tinylm2.backend import get_xp
from tinylm2.flat import Flat
from tinylm2.model import Config
from tinylm2.optim import AdamW
from tinylm2.training.communicator import own_shards
from tinylm2.training.curriculum import WINDOW, learning_rate
from tinylm2.training.frozen import FrozenBase, only_memories
from tinylm2.training.step import SINGLE, NotFinite, train_step


@dataclass
class Progress:
    """The position of a run in its curriculum. A checkpoint holds it beside parameters and moments."""

    step: int = 0
    stage: int = 0
    first: int = 0                                       # the step at which the stage began
    losses: list[float] = field(default_factory=list)    # of this stage, the last 20

    def state(self) -> Any:
        return asdict(self)


class NotLearned(RuntimeError):
    """A required stage did not reach its threshold."""


class Trainer:
    """A model in training: `for metrics in trainer.steps(): ...` until the curriculum ends.

    stories: a `tinylm2.data.Stories`. `metrics` is a dict of plain numbers for each step: one line of metrics.jsonl.
    Each batch is cut into `shards` parts, which the processes of `comm` share. ahead: make the next batch while the
    device computes; None: only on a GPU, where the host would otherwise wait. frozen: train only the memories'
    parameters.
    """

    def __init__(self, params: Flat, *, cfg: Config, stories: Any, stages: Any, max_lr: float = 6e-3, warmup: int = 100,
                 lm: float = 0.0, truncate: int | None = None, recompute: bool = False, shards: int = 1,
                 comm: Any = SINGLE, ahead: bool | None = None, frozen: bool = False) -> None:
        self.params, self.cfg, self.stories, self.stages = params, cfg, stories, stages
        self.max_lr, self.warmup, self.shards, self.comm = max_lr, warmup, shards, comm
        self.options = {"cfg": cfg, "lm": lm, "truncate": truncate, "recompute": recompute}
        self.frozen = frozen
        self.optimizer = FrozenBase(params) if frozen else AdamW(params)
        self.progress = Progress()
        self.ahead = get_xp(params.buffer) is not np if ahead is None else ahead
        self._made = {}                                  # (stage, step) -> parts of the batch made ahead

    def restore(self, moments: Any, progress: Any) -> None:
        """Continue from the moments and the progress of a checkpoint."""
        if isinstance(self.optimizer, FrozenBase):
            self.optimizer.restore(self.params, moments)
        else:
            self.optimizer.m[...], self.optimizer.v[...] = moments["m"], moments["v"]
        self.optimizer.t = progress["step"]
        self.progress = Progress(**progress)

    @property
    def moments(self) -> dict:
        if isinstance(self.optimizer, FrozenBase):
            return self.optimizer.moments_like(self.params)
        return {"m": self.optimizer.m, "v": self.optimizer.v}

    @property
    def stage(self) -> Any:
        return self.stages[self.progress.stage]

    @property
    def done(self) -> bool:
        return self.progress.stage == len(self.stages)

    def steps(self) -> Iterator:
        """Train until the last stage ends.  NotLearned where a required stage fails; NotFinite from `train_step`."""
        while not self.done:
            self._next_stage()                           # before the step: a checkpoint may be after a stage's last
            if not self.done:
                yield self.step()

    def step(self) -> dict:
        """One training step; its metrics."""
        p, stage = self.progress, self.stage
        last = p.stage == len(self.stages) - 1
        lr = learning_rate(self.max_lr, p.step, warmup=self.warmup, decay_from=p.first if last else None,
                           decay_steps=stage.steps)
        parts = self._made.pop((p.stage, p.step), None) or self._batch(p.step)
        try:
            with only_memories(self.params) if self.frozen else nullcontext():
                loss, norm, correct = train_step(self.params, self.optimizer, *parts, lr=lr, comm=self.comm,
                                                 meanwhile=self._make_ahead, **self.options)
        except NotFinite as error:
            raise NotFinite(f"step {p.step}: {error}") from None
        metrics = {"step": p.step, "stage": stage.name, "loss": loss, "accuracy": float(correct.mean()), "norm": norm,
                   "lr": lr}
        seen = self.comm.gather([(part.ids.size, part.tasks) for part in parts if part is not None])
        names = np.array([name for rank in seen for _, tasks in rank for name in tasks])
        metrics["tokens"] = sum(size for rank in seen for size, _ in rank)
        if len(set(names.tolist())) > 1:
            metrics["tasks"] = {str(name): float(correct[names == name].mean()) for name in np.unique(names)}
        p.step += 1
        p.losses = [*p.losses, loss][-WINDOW:]
        return metrics

    def _batch(self, step):
        """This process's parts of a step's batch."""
        sampler, size = self.stage.sampler, self.stage.batch_size
        return [sampler.batch(self.stories, step, size, shard, self.shards)
                for shard in own_shards(self.comm, self.shards)]

    def _make_ahead(self):
        """Make the next step's batch, if the stage has one. If the stage ends early, this batch is not used."""
        p = self.progress
        if self.ahead and p.step + 1 - p.first < self.stage.steps:
            self._made = {(p.stage, p.step + 1): self._batch(p.step + 1)}

    def _next_stage(self):
        """Go to the next stage when this one is over."""
        p, stage = self.progress, self.stage
        threshold = stage.loss_threshold
        passed = threshold is not None and len(p.losses) == WINDOW and sum(p.losses) / WINDOW < threshold
        if not passed and p.step - p.first < stage.steps:
            return
        if stage.required and not passed:
            raise NotLearned(f"binding was not learned: stage {stage.name} stands at a loss of "
                             f"{sum(p.losses) / len(p.losses):.2f} after {stage.steps} steps, expected {threshold}: "
                             "another --seed or a larger --hidden-size may do")
        p.stage, p.first, p.losses = p.stage + 1, p.step, []
