"""The twenty bAbI tasks (Weston et al. 2015) as small worlds: `TASKS["qa1"].story(dice)`. docs/DATA.md adds one."""

from tinylm2.data.tasks import carrying, placing, reasoning, walking
from tinylm2.data.tasks.task import TASKS, Task

WORLDS = (carrying, placing, reasoning, walking)         # importing a module of worlds enters its tasks

for _name in sorted(TASKS, key=lambda name: TASKS[name].number):
    TASKS[_name] = TASKS.pop(_name)                      # in the order of their numbers

__all__ = ["TASKS", "WORLDS", "Task"]
