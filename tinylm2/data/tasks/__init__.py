"""The twenty bAbI tasks (Weston et al. 2015) as small worlds: `TASKS["qa1"].story(dice)`. docs/DATA.md adds one."""

from tinylm2.data.tasks import walking
from tinylm2.data.tasks.task import TASKS, Task

WORLDS = (walking,)                                      # importing a module of worlds enters its tasks

__all__ = ["TASKS", "WORLDS", "Task"]
