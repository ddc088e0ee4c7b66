"""The twenty bAbI tasks (Weston et al. 2015) as small worlds: `TASKS["qa1"].story(rng)`. docs/DATA.md adds one."""

from tinylm2.data.tasks import carrying, placing, reasoning, walking
from tinylm2.data.tasks.task import TASKS, Task

WORLDS = (walking, carrying, placing, reasoning)         # importing a module of worlds puts its tasks into TASKS

for _task in sorted(TASKS.values(), key=lambda task: task.number):
    TASKS[_task.name] = TASKS.pop(_task.name)            # in the order of their numbers

__all__ = ["TASKS", "WORLDS", "Task"]
