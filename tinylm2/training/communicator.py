"""Communication between the processes of one training run. Only this file uses MPI.

A batch is cut into shards. Each shard's gradient is one forward and backward, and the gradients are added in the order
of the shards. So the bits of a run depend on the number of shards S, never on the number of processes (ranks) R. Rank r
computes the shards r S/R .. (r+1) S/R - 1. With one process, a communicator only adds.
"""

import os
import sys
import time
import zlib
from functools import cache
from typing import Any

import numpy as np

from tinylm2.backend import Array, get_xp, to_device, to_host
from tinylm2.errors import BadInput

STARTED_BY_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")      # set by mpiexec
PATIENCE = 3                                             # seconds that a failing rank waits for others to fail
END = 1                                                  # tag of the messages of `all_end`


class SingleProcess:
    """The communicator of a single process."""

    rank, size = 0, 1

    def gather(self, value: Any) -> list:
        """The values of all ranks, in order, on every rank."""
        return [value]

    def sum_shards(self, buffers: Any) -> Array:
        """The sum of all ranks' buffers (P,) in the order of the shards; the buffers may be overwritten."""
        return _fold(buffers)

    def all_end(self) -> bool:
        """Whether all processes of the run call this now. Each waits up to 2 PATIENCE seconds for the others."""
        return True

    def abort(self, status: Any) -> None:
        """End the other processes of the run: there are none."""


class MPI:
    """The processes that mpiexec started, through mpi4py (any MPI)."""

    def __init__(self, comm: Any) -> None:
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()

    def gather(self, value: Any) -> Any:
        """As `SingleProcess.gather`."""
        return self.comm.allgather(value)

    def sum_shards(self, buffers: Any) -> Any:
        """As `SingleProcess.sum_shards`. Each rank adds one slice of all shards, in order; then the slices are joined.

        Every number is sent twice (to the rank that adds its slice, and back to all), as in any all-reduce, but here
        the order of the additions is fixed. Device arrays go through the host unless TINYLM2_CUDA_MPI=1 says that the
        MPI accepts them.
        """
        xp, size, k = get_xp(*buffers), buffers[0].size, len(buffers)
        direct = xp is np or os.environ.get("TINYLM2_CUDA_MPI") == "1"
        sent = xp.stack(buffers) if k > 1 else buffers[0].reshape(1, -1)     # (k, P): this rank's shards
        here = sent if direct else to_host(sent)                         # one copy for all shards of this rank
        module = get_xp(here)
        ends = [size * rank // self.size for rank in range(self.size + 1)]
        widths = [high - low for low, high in zip(ends, ends[1:], strict=False)]
        mine, cut = widths[self.rank], here.reshape(-1)
        if k > 1:                                        # a single shard is already in the order of the slices
            cut = module.concatenate([here[:, low:high].reshape(-1) for low, high in zip(ends, ends[1:], strict=False)])
        met = module.empty(self.size * k * mine, cut.dtype)
        _wait_for_device(module)
        self.comm.Alltoallv([cut, [k * width for width in widths]], [met, [k * mine] * self.size])
        met = met.reshape(self.size * k, mine)
        total = module.ascontiguousarray(_fold([met[shard] for shard in range(self.size * k)]))
        joined = module.empty(size, cut.dtype)
        _wait_for_device(module)
        self.comm.Allgatherv(total, [joined, widths])
        return joined if direct else to_device(joined, xp)

    def all_end(self) -> bool:
        """As `SingleProcess.all_end`, with messages: a process that does not end may be inside a collective call."""
        ends = time.monotonic() + PATIENCE * (2 if self.rank else 1)     # rank 0 gives up first, and prints
        others = [0] if self.rank else range(1, self.size)
        if self.rank:
            self.comm.send(None, 0, END)
        while not all(self.comm.iprobe(other, END) for other in others):
            if time.monotonic() > ends:
                return False
            time.sleep(0.01)
        for other in others:
            self.comm.recv(source=other, tag=END)
            if not self.rank:
                self.comm.send(None, other, END)
        return True

    def abort(self, status: Any) -> None:
        """End every process of the run at once, with this exit status."""
        self.comm.Abort(status)


def _fold(buffers):
    """((b0 + b1) + b2) + ...: additions round, so another order would give other bits."""
    total, *others = buffers
    for buffer in others:
        total = total + buffer
    return total


def _wait_for_device(module):
    """Wait until all arrays are computed: MPI reads a GPU's memory without waiting for its queue."""
    if hasattr(module, "cuda"):
        module.cuda.get_current_stream().synchronize()


def ranks_started() -> int:
    """The number of processes that mpiexec started; 1 without mpiexec."""
    return max([1, *(int(os.environ[name]) for name in STARTED_BY_MPI if os.environ.get(name, "").isdigit())])


@cache
def world() -> Any:
    """The communicator of this process.  BadInput where mpiexec started several processes that cannot communicate: each
    would train on its own, in the same folder."""
    started = ranks_started()
    if started == 1 or "mpi4py.futures" in sys.modules:  # the workers of a pool are independent
        return SingleProcess()
    try:
        from mpi4py import MPI as library
    except Exception as error:                           # a broken MPI installation raises more than ImportError
        raise BadInput(f"started by mpiexec with {started} processes, but mpi4py cannot be imported "
                       f"({type(error).__name__}): pip install 'tinylm2[mpi]'") from None
    seen = library.COMM_WORLD.Get_size()
    if seen < started:
        raise BadInput(f"mpi4py: found {seen} of the {started} processes that mpiexec started, expected all: mpi4py "
                       "and mpiexec must belong to the same MPI")
    return MPI(library.COMM_WORLD)


def agree(comm: Any, **values: Any) -> None:
    """BadInput, on every rank, where the ranks have different values. It names the first difference."""
    everyone = comm.gather({name: repr(value) for name, value in values.items()})
    for rank, theirs in enumerate(everyone):
        for name, expected in everyone[0].items():
            found = theirs.get(name, "none")
            if found != expected:
                raise BadInput(f"rank {rank}: found {name} {found:.80}, expected rank 0's {expected:.80}")


def checksum(array: Any) -> int:
    """A CRC of an array's bytes: different arrays have different ones, almost surely."""
    return zlib.crc32(np.ascontiguousarray(to_host(array)).tobytes())


def own_shards(comm: Any, shards: int) -> Any:
    """The numbers of this rank's shards.  BadInput where the ranks cannot share them evenly."""
    if shards % comm.size:
        raise BadInput(f"--shards: found {shards}, expected a multiple of the {comm.size} processes")
    each = shards // comm.size
    return range(comm.rank * each, (comm.rank + 1) * each)
