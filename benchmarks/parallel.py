"""How much faster training and evaluation are on two ranks, beside two BLAS threads and beside PyTorch; and a plan.

    python -m benchmarks.parallel [--configs lm2-tiny,joint,small,medium] [--rounds 10] [--quick] [--write]

Each side is a process, or a group of processes, that stays and waits while another one has its turn. Times are by the
clock, so a figure means something only where nothing else runs: the load is printed beside it. From the figures and an
all-reduce by size a cost model is fitted (benchmarks/cost_model.py) and drawn to 1,024 ranks.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from textwrap import fill

import numpy as np

from benchmarks import cost_model, machine
from benchmarks.step import LR, SEED, WORKLOADS, Workload
from benchmarks.tables import markdown, median_quartiles
from tests.support import ranks
from tinylm2.cli.console import keep_memory, whole
from tinylm2.cli.count import PRESETS, multiply_adds
from tinylm2.data import TASKS, GrammarFiller, encode_examples, generated_examples, word_tokenizer
from tinylm2.flat import Flat
from tinylm2.inspect.evaluate import ask
from tinylm2.model import Config, count_params, init_params
from tinylm2.optim import AdamW, clip
from tinylm2.training import step as training_step
from tinylm2.training.communicator import own_shards, world
from tinylm2.training.step import train_step

PAGE = machine.PAGE.with_name("SCALING.md")
PICTURE = PAGE.with_name("pictures") / "scaling.png"
JOINT = Config(V=word_tokenizer().size, D=64, L=3, H=4, G=4, F=160, N=16, T=128)         # that of experiments/joint.py
MODELS = {name: WORKLOADS[name] for name in ("lm2-tiny", "small", "medium")} | {
    "joint": Workload(JOINT, batch=16, last=2, segments=2)}
LARGE = "lm2-1.7b", 1024                                 # the paper's model, and rows of a batch
FRACTIONS = {"1 process, half the rows": 2, "1 process, an eighth": 8}
APART = "2 processes apart, half the rows each"          # at the same time, and nothing is exchanged
THREADS = {"1 process": 1, "2 ranks": 1, "2 BLAS threads": 2, "torch, 2 threads": 2, "torch, 2 processes": 1,
           "1 process, half the rows": 1, "1 process, an eighth": 1, APART: 1}
SIZES = [2**n for n in range(8, 24, 3)]                  # numbers that are added


# ----------------------------------------------------------------------------------------------- a side, in its process


def our_step(work, comm):
    """A function that trains one step of this rank's shard."""
    params = init_params(work.cfg, SEED)
    optimizer = AdamW(params)
    parts = [work.draw().part(shard, comm.size) for shard in own_shards(comm, comm.size)]
    return lambda: train_step(params, optimizer, *parts, cfg=work.cfg, lr=LR, comm=comm)[0]


def overhead(work, rounds=20, steps=100):
    """Processor seconds that shards and communicator add to a step of one process, round by round.

    The pass itself is exchanged for its result: a hundredth of a step would be lost in the noise of the step.
    """
    params, batch = init_params(work.cfg, SEED), work.draw()
    optimizer, real = AdamW(params), training_step.loss_and_gradients
    result = real(params, batch, cfg=work.cfg)

    def whole():
        training_step.train_step(params, optimizer, batch, cfg=work.cfg, lr=0.0, comm=world())

    def bare():
        loss, _, grads = result
        if not np.isfinite(float(loss)) or not np.isfinite(float(clip(grads, 1.0))):
            raise FloatingPointError(f"the loss is {loss}")
        optimizer.step(params, grads, 0.0)

    def taken(step):
        return machine.seconds(lambda: [step() for _ in range(steps)], time.process_time) / steps

    training_step.loss_and_gradients = lambda *_, **__: result
    try:
        return [taken(whole) - taken(bare) for _ in range(rounds)]
    finally:
        training_step.loss_and_gradients = real


def ddp_step(work, rank, size):
    """A function that trains one step of this rank's rows with PyTorch's DistributedDataParallel."""
    import torch
    import torch.nn.functional as F

    from benchmarks.torch_reference import story, turns

    names, arrays = zip(*init_params(work.cfg, SEED).items(), strict=True)

    class Story(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.held = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(W)) for W in arrays])
            self.p = dict(zip(names, self.held, strict=True))
            self.blocks = [{name.split(".", 2)[2]: W for name, W in self.p.items() if name.startswith(f"blocks.{i}.")}
                           for i in range(work.cfg.L)]
            self.turn = turns(work.cfg.T + 1, work.cfg.K)

        def forward(self, ids):
            return story(self.p, self.blocks, ids, self.turn, work.cfg, batch.last)

    batch = work.draw().part(rank, size)
    ids, targets = (torch.tensor(x) for x in (batch.ids, batch.targets[:, -batch.last:]))
    model = torch.nn.parallel.DistributedDataParallel(Story())
    held = list(model.parameters())
    groups = [{"params": [W for W in held if W.ndim > 1], "weight_decay": 0.01},
              {"params": [W for W in held if W.ndim == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98), fused=True)

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(held, 1.0)
        optimizer.step()
        total = loss.detach().clone()
        torch.distributed.all_reduce(total)
        return total.item() / size

    return step


def serve(side, name):
    """Take turns: a line with a number of steps comes in, a line with seconds per step and the last loss goes out."""
    keep_memory()
    work = MODELS[name]
    if side == "torch, 2 processes":
        import torch
        import torch.distributed as distributed

        torch.set_num_threads(1)
        distributed.init_process_group("gloo")
        rank, step = distributed.get_rank(), ddp_step(work, distributed.get_rank(), 2)

        def share(n):
            told = torch.tensor([n])
            distributed.broadcast(told, 0)               # gloo sleeps while it waits
            return int(told)
    elif side.startswith("torch"):
        import torch

        from benchmarks.torch_reference import training_step

        torch.set_num_threads(THREADS[side])
        rank, share = 0, int
        step = training_step(init_params(work.cfg, SEED), work.draw(), cfg=work.cfg, lr=LR)
    else:
        comm = world()
        rows = max(1, work.batch // (FRACTIONS | {APART: 2}).get(side, 1))
        rank, step = comm.rank, our_step(replace(work, batch=rows), comm)

        def share(n):
            return _told(comm, n)

    while n := share(int(sys.stdin.readline() or 0) if rank == 0 else 0):
        began = time.perf_counter()
        for _ in range(n):
            loss = step()
        if rank == 0:
            print(json.dumps({"seconds": (time.perf_counter() - began) / n, "loss": loss}), flush=True)


def _told(comm, n):
    """Rank 0's number, on every rank. The others sleep meanwhile: an MPI that waits would keep a core from whose turn
    it is."""
    if comm.size == 1:
        return n
    if comm.rank == 0:
        for rank in range(1, comm.size):
            comm.comm.send(n, rank)
        return n
    while not comm.comm.iprobe(0):
        time.sleep(0.001)
    return comm.comm.recv(source=0)


def all_reduces(sizes, least=0.2):
    """Seconds of the sum of one shard per rank, by size, on rank 0."""
    comm, found = world(), {}
    for size in sizes:
        buffer = np.ones(size, np.float32)
        taken = []
        while comm.gather(sum(taken) < least and len(taken) < 200)[0]:
            began = time.perf_counter()
            comm.sum_shards([buffer])
            taken.append(time.perf_counter() - began)
        found[size] = median(taken)
    return found


def evaluation(questions):
    """Seconds to answer so many questions over eight segments with the default model."""
    comm, tokenizer = world(), word_tokenizer()
    cfg = WORKLOADS["lm2-tiny"].cfg
    rows, _ = encode_examples(generated_examples(TASKS["qa1"], questions, seed=0), 8, tokenizer=tokenizer,
                              filler=GrammarFiller(), segment_len=cfg.T, seed=0)
    params, taken = init_params(cfg, SEED), []
    for _ in range(3):
        comm.gather(None)
        began = time.perf_counter()
        ask(params, rows, cfg=cfg, tokenizer=tokenizer, answer_len=1, comm=comm)
        taken.append(time.perf_counter() - began)
    return min(taken)


# --------------------------------------------------------------------------------------------------------- the referee


class Side:
    """The processes of one side."""

    def __init__(self, side, name, home):
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), str(THREADS[side]))
        arguments = ["-m", "benchmarks.parallel", "--serve", side, name]
        command = ranks.command(2, *arguments) if side == "2 ranks" else [sys.executable, *arguments]
        kept = ranks.environment(**threads)
        count = 2 if side in ("torch, 2 processes", APART) else 1
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2"} if count == 2 else {}
        with open(Path(home) / "log", "a") as log:
            self.processes = [
                subprocess.Popen(command, env=kept | group | {"RANK": str(rank)}, text=True, cwd=ranks.ROOT, stderr=log,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE) for rank in range(count)]
        self.log, self.told = log.name, self.processes if side == APART else self.processes[:1]

    def turn(self, n):
        """{"seconds": per step of n steps, "loss": the last}; of two processes apart, those of the slower one."""
        for process in self.told:
            process.stdin.write(f"{n}\n")
            process.stdin.flush()
        lines = [process.stdout.readline() for process in self.told]
        if not all(lines):
            raise RuntimeError(f"a side of the benchmark ended: {Path(self.log).read_text()[-500:]}")
        return max(map(json.loads, lines), key=lambda found: found["seconds"])

    def end(self):
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait()
            process.stdout.close()


def _free_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def sides():
    """The sides that can take part, and a line for each reason why others cannot."""
    lacking, chosen = [], ["1 process"]
    if ranks.lacking():
        lacking.append(ranks.lacking())
    else:
        chosen.append("2 ranks")
    chosen += ["2 BLAS threads", *FRACTIONS, APART]
    if machine.has("torch"):
        chosen += ["torch, 2 threads", "torch, 2 processes"]
    else:
        lacking.append("PyTorch is not installed (pip install torch)")
    return chosen, lacking


def race(name, chosen, rounds, least):
    """Seconds per step of each side, round by round: {side: [...]}. Each turn takes about `least` seconds."""
    taken = {side: [] for side in chosen}
    with tempfile.TemporaryDirectory() as home:
        running = {side: Side(side, name, home) for side in chosen}
        try:
            first = {side: running[side].turn(1)["loss"] for side in chosen}
            whole = [loss for side, loss in first.items() if side not in (*FRACTIONS, APART)]
            if not np.allclose(whole, whole[0], rtol=1e-3):
                raise RuntimeError(f"the sides do not train the same model: first losses {first}")
            repeats = {side: max(1, round(least / running[side].turn(2)["seconds"])) for side in chosen}
            for turn in range(rounds):
                for side in chosen[turn % len(chosen):] + chosen[:turn % len(chosen)]:
                    taken[side].append(running[side].turn(repeats[side])["seconds"])
        finally:
            for side in running.values():
                side.end()
    return taken


def work_of(name, taken):
    """The cost model's Work of a model, fitted to batches of all, half and an eighth of its rows."""
    rows = {side: max(1, MODELS[name].batch // fraction) for side, fraction in {"1 process": 1, **FRACTIONS}.items()}
    fixed, per_row = cost_model.fit_line(list(rows.values()), [median(taken[side]) for side in rows])
    batch = MODELS[name].batch
    return cost_model.Work(fixed, per_row * batch, batch, count_params(MODELS[name].cfg))


def large_work(works):
    """The paper's model on cores like this one: products as fast as in the largest model that was measured."""
    name = max(works, key=lambda name: works[name].compute)
    measured = MODELS[name]
    done = 3 * measured.batch * measured.segments * sum(multiply_adds(measured.cfg).values())
    cfg, rows = PRESETS[LARGE[0]], LARGE[1]
    seconds = 3 * rows * sum(multiply_adds(cfg).values()) * works[name].compute / done
    fixed = update_seconds() * count_params(cfg)
    return cost_model.Work(fixed, seconds, rows, count_params(cfg)), name


def update_seconds(size=2**22):
    """Seconds of clipping and AdamW per parameter, which every rank does for all parameters."""
    params, grads = (Flat({"W": (size, 1)}, np, "float32") for _ in range(2))
    grads.buffer += 1
    optimizer = AdamW(params)

    def update():
        clip(grads, 1.0)
        optimizer.step(params, grads, LR)

    update()
    return min(machine.seconds(update, time.perf_counter) for _ in range(5)) / size


def fresh(what, size, *arguments):
    """What `--what` prints as JSON on so many ranks."""
    more = ["-m", "benchmarks.parallel", f"--{what}", *arguments]
    command = ranks.command(size, *more) if size > 1 else [sys.executable, *map(str, more)]
    done = subprocess.run(command, env=ranks.environment(), cwd=ranks.ROOT, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def steps_table(names, chosen, found):
    """Milliseconds per step of each side, and how many times as fast as one process it is."""
    rows = []
    for name in names:
        for side in chosen:
            taken = found[name][side]
            times = [one / other for one, other in zip(found[name]["1 process"], taken, strict=True)]
            faster = "-" if side in FRACTIONS or side == "1 process" else (
                median_quartiles(times) if len(times) > 1 else f"{times[0]:.2f}")
            rows.append([name, side, f"{1e3 * median(taken):.1f}", faster])
    return markdown(["model", "side", "ms per step", "times as fast (quartiles)"], rows)


def plan_table(works, networks):
    """The estimate at some numbers of ranks, and what limits it."""
    rows = []
    for name, work in works.items():
        for label, network in networks.items():
            limit, share = cost_model.limits(work, network, 1024)
            rows.append([name, label, *(f"{work.speedup(R, network):.4g}" for R in (2, 8, 64, 1024)),
                         f"{limit} ({share:.0%})"])
    return markdown(["model", "network", "2 ranks", "8", "64", "1,024", "longest part on 1,024 ranks"], rows)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parallel", description=__doc__.splitlines()[0])
    parser.add_argument("--configs", default="lm2-tiny,joint", help=f"some of {', '.join(MODELS)} (lm2-tiny,joint)")
    parser.add_argument("--rounds", type=whole(1, 10**6), default=10, help="turns of each side (10)")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes: does it run?")
    parser.add_argument("--write", action="store_true", help="put tables and picture into docs/SCALING.md")
    for name, count in (("serve", 2), ("all-reduce", 1), ("evaluation", 1)):
        parser.add_argument(f"--{name}", nargs=count, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.serve:
        serve(*args.serve)
    elif args.all_reduce or args.evaluation:
        found = all_reduces(json.loads(args.all_reduce[0])) if args.all_reduce else evaluation(int(args.evaluation[0]))
        if world().rank == 0:
            print(json.dumps(found))
    else:
        report(args)
    return 0


def report(args):
    """Measure, print, and write if asked."""
    chosen, lacking = sides()
    names = args.configs.split(",")[:1] if args.quick else args.configs.split(",")
    load = os.getloadavg()[0]
    found = {name: race(name, chosen, 1 if args.quick else args.rounds, 0.02 if args.quick else 0.5) for name in names}
    text = [*lacking, steps_table(names, chosen, found)]
    for name in names:
        added = median(overhead(MODELS[name], *((3, 5) if args.quick else ())))
        text.append(f"In one process, shards and communicator add {1e6 * added:.0f} us of processor time to a step of "
                    f"{name}: {added / median(found[name]['1 process']):.2%}.")
    works = {name: work_of(name, found[name]) for name in names}
    networks = dict(cost_model.NETWORKS)
    if "2 ranks" in chosen:
        sizes = SIZES[:3] if args.quick else SIZES
        taken = {int(size): t for size, t in fresh("all-reduce", 2, json.dumps(sizes)).items()}
        memory = cost_model.fitted_network(sizes, list(taken.values()), 2)
        networks = {"shared memory, measured": memory, **networks}
        text += [markdown(["numbers", "bytes", "all-reduce on 2 ranks, ms"],
                          [[f"{size:,}", f"{4 * size:,}", f"{1e3 * t:.3f}"] for size, t in taken.items()]),
                 f"Fitted: {1e6 * memory.latency:.0f} us per message, {memory.bandwidth / 1e9:.2f} GB/s."]
        questions = 256 if args.quick else 1024
        one, two = (fresh("evaluation", size, questions) for size in (1, 2))
        text.append(f"Evaluation of {questions} questions over eight segments takes {one:.2f} s in one process and "
                    f"{two:.2f} s on two ranks: {one / two:.2f} times as fast.")
        text += [f"The cost model gives {name} {1e3 * work.step(2, memory):.1f} ms per step on two ranks. Measured: "
                 f"{1e3 * median(found[name]['2 ranks']):.1f} ms. Not shared: {1e3 * work.fixed:.1f} ms."
                 for name, work in works.items()]
    works[f"{LARGE[0]}, {LARGE[1]:,} rows"], base = large_work(works)
    text += ["Rows per second as a multiple of one rank's, estimated:", plan_table(works, networks),
             f"The large model's seconds per row are those of {base}, scaled by multiply-adds."]
    after = os.getloadavg()[0]
    loaded = f"Load average {load:.1f} before and {after:.1f} after, on {machine.CORES} cores" + (
        ": other programs ran, so the figures are too high and too noisy." if max(load, after) > 2.5 else ".")
    text = "\n\n".join(part if part.startswith("|") else fill(part, 120)
                       for part in (machine.describe(), loaded, *text))
    print(text)
    if args.write:
        machine.write("parallel", text, PAGE)
    if args.write and machine.has("matplotlib"):
        cost_model.draw(works, networks, PICTURE)


if __name__ == "__main__":
    sys.exit(main())
