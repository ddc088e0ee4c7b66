"""The twenty bAbI tasks (Weston et al. 2015): `TASKS["qa1"].story(dice)`."""

from tinylm2.data.tasks import moving  # noqa: F401  (importing a module of tasks enters them in TASKS)
from tinylm2.data.tasks.task import TASKS, Task

__all__ = ["TASKS", "Task"]
