"""Limits for the worker process: the kernel enforces them, so they hold whatever Python code or C code asks for.

`enter` applies every limit that the system has and returns the names of those that hold:

    session        the worker is in a session of its own, and the kernel kills it when the grader ends (Linux)
    memory         RLIMIT_AS
    cpu            RLIMIT_CPU
    file size      RLIMIT_FSIZE is zero: nothing can be appended to any file
    processes      RLIMIT_NPROC is zero (it does not bind the user root)
    files          Landlock: only a few folders can be read, no file can be written or executed (Linux 5.13 or newer)
    system calls   seccomp: a short list of system calls is allowed, every other one fails with EPERM (Linux)

`audit_hook` is the second wall. It refuses inside Python what the kernel refuses anyway, and it tells the grader who
tried what. Code that runs in the same interpreter can take it apart, so nothing relies on it where the kernel's walls
hold.
"""

import ctypes
import os
import platform
import struct
import sys

WALLS = ("session", "memory", "cpu", "file size", "processes", "files", "system calls")


def enter(*, memory, seconds, parent, readable, listed):
    """Apply every limit.  -> the names of those that hold, from WALLS.

    memory: bytes.  seconds: of processor time.  parent: the grader's process number.  readable: files and folders that
    may be read.  listed: folders whose names may be listed.
    """
    held = ["session"] if _end_with(parent) else []
    held += _limit_resources(memory, seconds)
    try:
        if restrict_files(readable, listed):
            held.append("files")
        if restrict_system_calls():
            held.append("system calls")
    except (AttributeError, OSError):                    # no C library that ctypes can open, or no such function
        pass
    return held


# ------------------------------------------------------------------------------------------------------------ resources


def _end_with(parent):
    """Let the kernel kill this process when the grader ends."""
    if sys.platform != "linux":
        return False
    done = not ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)    # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != parent:                           # the grader ended before this line
        os._exit(1)
    return done and os.getsid(0) == os.getpid()


def _limit_resources(memory, seconds):
    try:
        import resource
    except ImportError:                                  # Windows
        return []
    held = []
    wanted = (("memory", "RLIMIT_AS", memory), ("cpu", "RLIMIT_CPU", seconds), ("file size", "RLIMIT_FSIZE", 0),
              ("processes", "RLIMIT_NPROC", 0), ("", "RLIMIT_CORE", 0), ("", "RLIMIT_NOFILE", 64))
    for name, limit, value in wanted:
        try:
            resource.setrlimit(getattr(resource, limit), (value, value))
        except (AttributeError, ValueError, OSError):    # macOS has no limit of the address space
            continue
        if name and not (name == "processes" and os.getuid() == 0):
            held.append(name)
    return held


# ------------------------------------------------------------------------------------------------------ files: Landlock

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls, the same numbers on every processor
NO_NEW_PRIVILEGES = 38                                   # prctl
FIRST_VERSION = (1 << 13) - 1                            # execute, read, write, make, remove
TRUNCATE = 1 << 14                                       # from version 3 on
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
BENEATH = 1                                              # a rule about everything below a folder


def restrict_files(readable, listed=()):
    """Allow reading these files and everything below these folders, and listing the names in the listed folders. No
    other file can be opened, and none can be written.  -> whether the kernel agreed.  See landlock(7)."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE_RULESET, None, 0, 1)
    handled = struct.pack("=Q", FIRST_VERSION | (TRUNCATE if version >= 3 else 0))
    ruleset = libc.syscall(CREATE_RULESET, handled, len(handled), 0)
    if ruleset < 0:                                      # an old kernel, or Landlock is switched off
        return False
    try:
        rights = {place: READ_FILE | (READ_FOLDER if os.path.isdir(place) else 0) for place in readable}
        for place, right in (dict.fromkeys(listed, READ_FOLDER) | rights).items():
            fd = os.open(place, os.O_PATH)
            try:
                if libc.syscall(ADD_RULE, ruleset, BENEATH, struct.pack("=Qi", right, fd), 0):
                    return False
            finally:
                os.close(fd)
        return not libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) and not libc.syscall(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


# ------------------------------------------------------------------------------------------------ system calls: seccomp

# Name: (number on x86_64, number on aarch64). None where the processor does not have it. What is not here fails.
ALLOWED = {
    "read": (0, 63), "readv": (19, 65), "pread64": (17, 67), "write": (1, 64), "writev": (20, 66), "close": (3, 57),
    "lseek": (8, 62), "dup": (32, 23), "stat": (4, None), "fstat": (5, 80), "lstat": (6, None),
    "newfstatat": (262, 79), "statx": (332, 291), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78), "getcwd": (79, 17),
    "getdents": (78, None), "getdents64": (217, 61), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215),
    "mremap": (25, 216), "madvise": (28, 233), "brk": (12, 214), "futex": (202, 98), "membarrier": (324, 283),
    "rseq": (334, 293), "set_robust_list": (273, 99), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "restart_syscall": (219, 128), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "getcpu": (309, 168), "getpid": (39, 172), "getppid": (110, 173),
    "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165), "getrlimit": (97, 163), "times": (100, 153),
    "gettimeofday": (96, 169), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "getrandom": (318, 278), "exit": (60, 93),
    "exit_group": (231, 94),
}
OPEN, OPENAT, FCNTL, PRLIMIT = (2, None), (257, 56), (72, 25), (302, 261)        # allowed with some arguments only
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
HARMLESS_FCNTL = (0, 1, 2, 3, 1030)                      # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
PROCESSORS = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}             # column above, AUDIT_ARCH

LOAD, JUMP_EQUAL, JUMP_ANY_BIT, JUMP_AT_LEAST, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06         # classic BPF
ALLOW, DENY, KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000                       # DENY: the call fails with EPERM
NUMBER, PROCESSOR, ARGUMENTS = 0, 4, 16                  # places in the kernel's struct seccomp_data


def restrict_system_calls():
    """Allow the system calls above and no other: no process, no signal, no connection, no writing to a file, no change
    of a limit or a priority.  -> whether the kernel agreed.  See seccomp(2)."""
    if sys.platform != "linux" or platform.machine() not in PROCESSORS or struct.calcsize("P") != 8:
        return False
    code = _program(*PROCESSORS[platform.machine()])
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return False
    return not libc.prctl(22, 2, header, 0, 0)           # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _program(column, processor):
    """The filter as classic BPF: what an argument must be, then the list, then no."""
    def instruction(code, k, if_true=0, if_false=0):
        return struct.pack("=HBBI", code, if_true, if_false, k)

    def argument(i, high=False):
        return instruction(LOAD, ARGUMENTS + 8 * i + 4 * high)

    def when(call, *block):
        """The block, for this system call only; the block returns."""
        return [instruction(JUMP_EQUAL, call[column], 0, len(block)), *block] if call[column] is not None else []

    allow, deny = instruction(RETURN, ALLOW), instruction(RETURN, DENY)
    read_only = [instruction(JUMP_ANY_BIT, WRITING, 0, 1), deny, allow]
    harmless = [part for k in HARMLESS_FCNTL for part in (instruction(JUMP_EQUAL, k, 0, 1), allow)]
    is_zero = [instruction(JUMP_EQUAL, 0, 1, 0), deny]
    program = [
        instruction(LOAD, PROCESSOR), instruction(JUMP_EQUAL, processor, 1, 0), instruction(RETURN, KILL),
        instruction(LOAD, NUMBER), instruction(JUMP_AT_LEAST, 0x40000000, 0, 1), deny,           # another ABI's numbers
        *when(OPEN, argument(1), *read_only),
        *when(OPENAT, argument(2), *read_only),
        *when(FCNTL, argument(1), *harmless, deny),
        *when(PRLIMIT, argument(0), *is_zero, argument(2), *is_zero, argument(2, high=True), *is_zero, allow)]
    for call in ALLOWED.values():
        program += when(call, allow)
    return b"".join([*program, deny])


# ----------------------------------------------------------------------------------------- the second wall: audit hooks

FORBIDDEN = {                                            # audit events by their first word; os has a list of its own
    "cpython": "starts an interpreter", "ctypes": "reaches into memory", "fcntl": "reaches into the system",
    "ftplib": "opens a connection", "gc": "reaches into memory", "http": "opens a connection",
    "imaplib": "opens a connection", "mmap": "reaches into memory", "poplib": "opens a connection",
    "pty": "starts a process", "resource": "reaches into the system", "shutil": "changes files",
    "signal": "sends a signal", "smtplib": "opens a connection", "socket": "opens a connection",
    "sqlite3": "opens a database", "subprocess": "starts a process", "syslog": "reaches into the system",
    "tempfile": "writes a file", "urllib": "opens a connection", "webbrowser": "starts a process",
    "winreg": "reaches into the system"}
HARMLESS = {"os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.putenv", "os.unsetenv", "resource.getrlimit"}
MODULES = {"_ctypes", "_interpreters", "_posixshmem", "_posixsubprocess", "_socket", "_sqlite3", "_testcapi",
           "_testinternalcapi", "_xxsubinterpreters", "multiprocessing", "mmap"}
ACTIONS = {"writes", "opens", "imports", "calls", *FORBIDDEN.values()}


def audit_hook(allowed, report):
    """A function for sys.addaudithook: it refuses files outside the allowed folders, writing, processes, connections.

    Each refusal is reported to the grader, as report(action, object), before it is raised. No `except` can hide it.
    Everything that the hook uses is bound here: names that it looked up later could be replaced.
    """
    allowed = frozenset(os.path.realpath(place) for place in allowed)
    forbidden, harmless, modules, separator = dict(FORBIDDEN), frozenset(HARMLESS), frozenset(MODULES), os.sep
    realpath, fsdecode, kind, count, numbers = os.path.realpath, os.fsdecode, type, len, range
    writes, text, raw, number, refusal = WRITING, str, bytes, int, PermissionError

    def refuse(action, what):
        report(action, what)
        raise refusal(f"the grader lets no solution do this: it {action} {what}")

    def hook(event, args):
        family = event.partition(".")[0]
        if event == "open":
            path, mode, flags = args
            if kind(path) is number:
                return
            if kind(path) is not text and kind(path) is not raw:         # its methods would run in here
                refuse("opens", kind(path).__name__)
            place = realpath(fsdecode(path))
            above = place.split(separator)
            if mode and (mode.strip("rbtU") or "+" in mode) or (flags or 0) & writes:
                refuse("writes", place)
            for i in numbers(2, count(above) + 1):
                if separator.join(above[:i]) in allowed:
                    return
            refuse("opens", place)
        elif event == "import":
            if args[0] in modules:
                refuse("imports", args[0])
        elif event in harmless:
            return
        elif family in forbidden:
            refuse(forbidden[family], event)
        elif family == "os":
            refuse("calls", event)

    return hook
