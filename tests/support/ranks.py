"""Ranks without mpiexec, one thread each, and with it: what the tests of tinylm2/training/communicator.py stand on."""

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from tests.support import fake_cupy
from tinylm2.training.communicator import MPI

ROOT = Path(__file__).parents[2]
WAIT = 60                                                # seconds after which a simulated rank gives up


class FakeComm:
    """What communicator.MPI uses of an mpi4py communicator, for ranks that are threads of one process.

    Only the thread that has the turn runs: fake_cupy's counters are made for one thread.
    """

    def __init__(self, rank, size, meeting):
        self.rank, self.size, self.meeting = rank, size, meeting

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.size

    def allgather(self, value):
        """Every rank's value, in their order."""
        values, barrier, turn = self.meeting
        values[self.rank] = value
        turn.release()
        try:
            barrier.wait(WAIT)
            found = list(values)
            barrier.wait(WAIT)                           # nobody puts in the next value before all have seen these
        finally:
            turn.acquire()
        return found

    def Alltoallv(self, sent, received):
        """Slice r of what each rank sends goes to rank r, which lays them side by side in the order of the ranks."""
        parts = []
        for array, counts in self.allgather([_host(sent[0]).copy(), sent[1]]):
            start = sum(counts[:self.rank])
            parts.append(array[start:start + counts[self.rank]])
        assert [len(part) for part in parts] == received[1]
        _host(received[0])[...] = np.concatenate(parts)

    def Allgatherv(self, sent, received):
        """What each rank sends, side by side, on every rank."""
        parts = self.allgather(_host(sent).copy())
        assert [len(part) for part in parts] == received[1]
        _host(received[0])[...] = np.concatenate(parts)


def _host(array):
    """The memory of an array: an MPI that knows CUDA reads a device's, too."""
    return array._host if isinstance(array, fake_cupy.Array) else array


def simulated(size, function):
    """function(communicator) of so many ranks at once, each in a thread: what they return, in their order."""
    barrier, turn = threading.Barrier(size), threading.Lock()
    meeting, results, faults = ([None] * size, barrier, turn), [None] * size, []

    def run(rank):
        with turn:
            try:
                results[rank] = function(MPI(FakeComm(rank, size, meeting)))
            except BaseException as error:
                faults.append(error)
                barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise next((error for error in faults if not isinstance(error, threading.BrokenBarrierError)), faults[0])
    return results


# --------------------------------------------------------------------------------------------------------- real ranks


def mpiexec():
    """The mpiexec that belongs to this Python, else the one on the path; None where there is none."""
    beside = Path(sys.executable).parent / "mpiexec"
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def lacking():
    """Why no real ranks can be started; None where they can."""
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed (pip install '.[mpi]')"
    return None if mpiexec() else "mpiexec is not installed (pip install '.[mpi]')"


def command(ranks, *arguments):
    """The command line of so many ranks of `python ARGUMENTS`."""
    return [mpiexec(), "-n", str(ranks), sys.executable, *map(str, arguments)]


def environment(**more):
    """That of a child: one BLAS thread, no bytecode, this repository to import from, nothing of an outer MPI."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PMI_", "MPI_", "OMPI_"))}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return kept | {"OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": path} | more


def start(ranks, *arguments, log, **more):
    """Start so many ranks of `python ARGUMENTS`; what they print goes to the file `log`."""
    return subprocess.Popen(command(ranks, *arguments), cwd=ROOT, env=environment(**more), stdout=log,
                            stderr=subprocess.STDOUT)


def pids(folder, ranks):
    """The process ids of the ranks, which each left in a file of this folder; None where some are not there yet."""
    files = [Path(folder) / f"pid{rank}" for rank in range(ranks)]
    if not all(file.exists() and file.read_text().endswith("\n") for file in files):
        return None
    return [int(file.read_text()) for file in files]


def child(argv):
    """`train` with a curriculum of seconds, as crash.py has it, and with hooks named before its own arguments."""
    from tests.support import crash
    from tinylm2.training import communicator
    from tinylm2.training.trainer import Trainer

    hooks = {}
    while argv[:1] == ["--hook"]:
        hooks[argv[1]], argv = argv[2], argv[3:]
    if "hide" in hooks:                                  # mpi4py, as if it were not installed
        sys.modules["mpi4py"] = None
    else:
        rank = communicator.world().rank
        if "pids" in hooks:
            Path(hooks["pids"], f"pid{rank}").write_text(f"{os.getpid()}\n")
        if "seed-of-rank-1" in hooks and rank == 1:
            argv = [*argv, "--seed", hooks["seed-of-rank-1"]]
        if "drift" in hooks and rank == 1:
            _after_step(Trainer, lambda trainer: trainer.params.buffer.__setitem__(0, 1.0))
        if "fault" in hooks and rank == 1:
            _after_step(Trainer, lambda trainer: 1 // 0)
    if "pause" in hooks:
        _after_step(Trainer, lambda trainer: time.sleep(float(hooks["pause"])))
    return crash.child(argv)[0]


def _after_step(Trainer, action):
    step = Trainer.step

    def with_action(trainer):
        metrics = step(trainer)
        action(trainer)
        return metrics

    Trainer.step = with_action


if __name__ == "__main__":
    sys.exit(child(sys.argv[1:]))
