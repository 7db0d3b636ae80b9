"""Trainings as tasks of a Ray cluster. Ray schedules, transports and retries them; this module does not.

Workers need the installed packages only. Code, decoded images and weights travel through Ray's object store, once per
machine; finished runs come back the same way, and this process alone writes to the run store. A machine that has a file
in its cache (`LOWSHOT_CACHE`), such as one on a shared disk, does not fetch it. Ray replaces a worker that is lost, and
its training resumes from its last epoch where the cache of its machine still exists.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from core.data.image_cache import Progress
from core.errors import BadRequest, LowshotError
from core.files import canonical_json, locked, remove_unfinished, sha256_of, write_stream_atomically
from core.jobs import events
from core.paths import PROJECT, cache_folder, pick_device
from core.runs import Run, pack_run, put_run
from trainer import progress
from trainer.training.engines import AT_ONCE, Engine, File, LocalEngine, Task
from trainer.training.run_files import CACHE, ENCODERS, WEIGHTS

if TYPE_CHECKING:
    from ray import ObjectRef

RETRIES = 5  # times that Ray repeats a training whose worker was lost
_CONNECT = 5.0  # seconds for a cluster to answer
_POLL = 1.0  # seconds between two readings of the progress
_BLOCK = 64 * 2**20  # bytes of a file that travel at once
_CLIENT = "ray://"
_TEMPORARY = "lowshot-ray-"  # prefix of the folder of a Ray on this machine, followed by the id of its process
_INSTALL = "pip install -r requirements-cluster.txt"


@contextmanager
def open_engine(arguments: argparse.Namespace) -> Iterator[Engine]:
    """Yield the engine that the flags of a command choose.

    Raises:
        BadRequest: if flags contradict each other, Ray is not installed, or the cluster cannot be used.
    """
    cluster_flags = {name: getattr(arguments, name) for name in ("address", "cpus_per_run", "gpus_per_run")}
    if arguments.engine == "local":
        if stated := [name for name, value in cluster_flags.items() if value not in ("", None)]:
            raise BadRequest(f"--{stated[0].replace('_', '-')} is for a cluster. Add --engine ray, or leave it out.")
        yield LocalEngine(pick_device(arguments.device))
        return
    if find_spec("ray") is None:
        raise BadRequest(f"--engine ray needs Ray, which is not installed. Install it: {_INSTALL}")
    with _connected(arguments.address or os.environ.get("RAY_ADDRESS", "")) as ships:
        yield RayEngine(arguments.device, arguments.cpus_per_run or 1, arguments.gpus_per_run, ships)


@contextmanager
def _connected(address: str) -> Iterator[bool]:
    """Connect to a cluster, or start Ray on this machine alone, and yield whether the workers lack access to this disk.

    Raises:
        BadRequest: if there is no cluster at the address, or it refuses.
    """
    own = {"RAY_USAGE_STATS_ENABLED": "0"}
    variables = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}  # see trainer.__main__
    with ExitStack() as stack:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address:
            _check_answers(address)
            modules = [str(PROJECT / name) for name in ("core", "trainer")]
            options |= {"address": address, "runtime_env": {"env_vars": variables, "py_modules": modules}}
        else:
            folder = stack.enter_context(_temporary_folder())
            # Ray listens on the loopback interface only, and takes no command from other users of the machine
            own |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
            own |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            variables |= {"TMPDIR": str(folder)}
            options |= {"address": "local", "include_dashboard": False, "_temp_dir": str(folder)}
            options |= {"num_cpus": len(os.sched_getaffinity(0)), "runtime_env": {"env_vars": variables}}
        os.environ.update(own)
        import ray

        stack.callback(ray.shutdown)
        on_term = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(**options)
        except (Exception, SystemExit) as error:
            raise BadRequest(f"Ray cannot be used at {address or 'this machine'}: {error}") from None
        ray._private.worker._worker_logs_enabled = False  # Ray would print lost workers among the results
        signal.signal(signal.SIGTERM, on_term)  # Ray would end the process without its final messages
        yield bool(address)


def _check_answers(address: str) -> None:
    """Raise BadRequest unless a gRPC server answers at an address; Ray itself waits for more than a minute."""
    import grpc

    if address == "auto":
        return
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    remedy = (
        "Give HOST:6379 on a machine of the cluster, ray://HOST:10001 from elsewhere, or nothing for a Ray of its own "
        "on this machine."
    )
    if not host or not port.isdecimal() or "/" in host:
        raise BadRequest(f"Expected --address as HOST:PORT or ray://HOST:PORT, but got {address!r}. {remedy}")
    try:
        socket.getaddrinfo(host, int(port))
        with grpc.insecure_channel(f"{host}:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=_CONNECT)
    except (OSError, OverflowError, grpc.FutureTimeoutError):
        raise BadRequest(f"No Ray cluster answers at {address}. Check that it runs (ray status). {remedy}") from None


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Yield a folder for Ray's sockets and logs; it is removed at the end, folders of killed processes now."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
        owner = folder.name.removeprefix(_TEMPORARY).partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY}{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class RayEngine:
    """Carries out tasks on the cluster to which this process is connected.

    Args:
        device: name of the device, as it is called on the workers.
        cpus: cores of each task.
        gpus: GPUs of each task, or the share of one; None for one where the cluster has any.
        ships: whether the workers lack access to this machine's disk.
    """

    def __init__(self, device: str, cpus: int, gpus: float | None, ships: bool) -> None:
        import ray
        from ray.util.queue import Queue

        has = ray.cluster_resources()
        if gpus is None:
            gpus = 1.0 if device != "cpu" and has.get("GPU") else 0.0
        needs = {name: number for name, number in (("CPU", cpus), ("GPU", gpus)) if number}
        for name, number in needs.items():
            if number > has.get(name, 0):
                lack = f"A training needs {number:g} {name}, but the cluster has {has.get(name, 0):g}."
                if not ships:
                    raise BadRequest(f"{lack} Lower --{name.lower()}s-per-run.")
                progress.print_status(f"{lack} Trainings wait until it has more, such as from its autoscaler.")
        self.parallel = max(1, int(min(has.get(name, 0) / number for name, number in needs.items())))
        self._device, self._ships = device, ships
        self._work = ray.remote(_work).options(
            num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(cpus)}},
        )  # fmt: skip
        self._lines = Queue(actor_options={"num_cpus": 0, "max_restarts": -1})
        self._shared: dict[int, tuple[Any, ObjectRef]] = {}  # the value is kept, so that its id stays its own
        self._sent_files: dict[File, list[ObjectRef]] = {}
        self._count = 0

    def run(self, tasks: Iterable[Task], at_once: int = AT_ONCE) -> Iterator[tuple[Task, Any]]:
        """Yield each task and its outcome as they finish; a task that is not awaited to its end is cancelled."""
        import ray

        waiting: dict[ObjectRef, tuple[int, Task]] = {}
        pending, shown = iter(tasks), _Shown()
        try:
            while True:
                while len(waiting) < at_once and (task := next(pending, None)) is not None:
                    if task.known is not None:
                        yield task, task.known
                        continue
                    self._count += 1
                    waiting[self._submit(task, self._count)] = self._count, task
                if not waiting:
                    return
                for done in ray.wait(list(waiting), timeout=_POLL)[0]:
                    number, task = waiting.pop(done)
                    shown.finish(number)
                    yield task, self._outcome(done, task)
                self._show(shown)
        finally:
            shown.close()
            for reference in waiting if ray.is_initialized() else ():
                ray.cancel(reference, force=True)

    def _submit(self, task: Task, number: int) -> ObjectRef:
        import ray

        files = [(file.variable, file.name, self._blocks(file)) for file in task.files()] if self._ships else []
        for value in task.shared:
            if id(value) not in self._shared:
                self._shared[id(value)] = value, ray.put(value)
        for embedding in task.embeddings:
            if id(embedding) not in self._shared:
                self._shared[id(embedding)] = embedding, self._submit(embedding, 0)
        arguments = [_Packed.of(value) if isinstance(value, Run) else value for value in task.arguments]
        return self._work.remote(
            task.function, task.title, self._device, files, self._lines.actor, number,
            [self._shared[id(value)][1] for value in task.shared], arguments,
            *(self._shared[id(embedding)][1] for embedding in task.embeddings),
        )  # fmt: skip

    def _blocks(self, file: File) -> list[ObjectRef]:
        """Put a file into the object store in blocks, once for all tasks; Ray moves what exceeds memory to its disk."""
        import ray

        if file not in self._sent_files:
            with file.path.open("rb") as content:
                self._sent_files[file] = [ray.put(block) for block in iter(partial(content.read, _BLOCK), b"")]
        return self._sent_files[file]

    def _outcome(self, done: ObjectRef, task: Task) -> Any:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            result = ray.get(done)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        except RayError as error:
            return LowshotError(
                f"Its worker was lost {RETRIES + 1} times ({type(error).__name__}); most often its memory ran out. "
                "Give each training more cores (--cpus-per-run), or choose a smaller --batch-size."
            )
        if isinstance(result, _Packed):
            return result.unpacked(any(isinstance(value, Run) for value in task.arguments))
        return result

    def _show(self, shown: _Shown) -> None:
        """Show what the workers reported since the last look."""
        from ray.exceptions import RayError

        with suppress(RayError):  # its machine was lost; it starts anew
            for number, kind, facts in self._lines.get_nowait_batch(self._lines.size()):
                shown.show(number, kind, facts)


class _Shown:
    """Shows the progress of one task at a time, as if it ran here, and the messages of all."""

    def __init__(self) -> None:
        self._number, self._title, self._finished = 0, "", set[int]()
        self._stack = ExitStack()
        self._bar: Progress = lambda done, total: None

    def show(self, number: int, kind: str, facts: dict[str, Any]) -> None:
        if kind == "say":
            progress.print_status(facts["text"])
        if number in self._finished or self._number not in (0, number):
            return
        self._number = number
        if kind == "epoch":
            progress.write_event(kind, **facts)
        if kind == "begin" or (kind == "bar" and facts["title"] != self._title):
            self._stack.close()
            self._title = facts["title"]
            self._bar = self._stack.enter_context(progress.progress_bar(facts["title"], facts["unit"]))
        if kind == "bar":
            self._bar(facts["done"], facts["total"])

    def finish(self, number: int) -> None:
        self._finished.add(number)
        if number == self._number:
            self.close()

    def close(self) -> None:
        self._stack.close()
        self._number, self._title = 0, ""


@dataclass(frozen=True)
class _Packed:
    """A stored run on its way between two machines."""

    dataset: str
    run: str
    files: dict[str, bytes]

    @classmethod
    def of(cls, run: Run) -> _Packed:
        return cls(run.meta.dataset, run.meta.run, pack_run(run.folder))

    def unpacked(self, replace: bool = False) -> Run:
        return put_run(self.dataset, self.run, self.files, replace)


Blocks = Iterable["ObjectRef"]


def _work(
    function: Callable[..., Any],
    title: str,
    device: str,
    files: Iterable[tuple[str, str, Blocks]],
    lines: Any,
    number: int,
    shared: Iterable[ObjectRef],
    arguments: Iterable[Any],
    *embeddings: Any,
) -> Any:
    """Carry out a task on a worker, with a run store of its own; a `LowshotError` is returned, not raised.

    Ray waits for the embeddings before it starts a task. Shared arguments are read last: they may open the files.
    """
    import ray

    def send(kind: str, facts: dict[str, Any]) -> None:
        lines.put_nowait.remote((number, kind, facts))

    with tempfile.TemporaryDirectory(prefix="lowshot-") as folder, progress.sent_to(send):
        os.environ["LOWSHOT_RUNS"] = folder
        try:
            _install(files)
            for views in embeddings:
                for view in () if isinstance(views, LowshotError) else views:  # the task meets the error itself
                    view.store()
            own = [value.unpacked() if isinstance(value, _Packed) else value for value in arguments]
            with progress.progress_bar(title, events.STEPS) as steps:
                result = function(*ray.get(list(shared)), *own, pick_device(device), steps)
            return _Packed.of(result) if isinstance(result, Run) else result
        except LowshotError as error:
            return error


def _install(files: Iterable[tuple[str, str, Blocks]]) -> None:
    """Write files that this machine lacks: images into its cache, weights into folders named by what they hold."""
    _tidy_cache()
    by_variable: dict[str, list[tuple[str, Blocks]]] = {CACHE: [], ENCODERS: [], WEIGHTS: []}
    for variable, name, blocks in files:
        by_variable[variable].append((name, blocks))
    for name, blocks in by_variable[CACHE]:
        _write(cache_folder() / name, blocks)
    for variable in (ENCODERS, WEIGHTS):
        if not (sent := by_variable[variable]):
            continue
        key = canonical_json([(name, [block.hex() for block in blocks]) for name, blocks in sent])
        folder = cache_folder() / "sent" / sha256_of([key])[:24]
        for name, blocks in sent:
            _write(folder / name, blocks)
        os.environ[variable] = str(folder)


@cache
def _tidy_cache() -> None:
    """Remove what killed workers left half-written in this machine's cache, once in each worker process."""
    remove_unfinished([cache_folder()])


def _write(path: Path, blocks: Blocks) -> None:
    """Write a file from the object store, unless it is there; of several workers on a machine, one fetches it."""
    if path.exists():
        return
    with locked(path):
        if not path.exists():
            write_stream_atomically(path, _Stream(blocks))


class _Stream:
    """Blocks in the object store, read one after the other."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks, self._rest = iter(blocks), b""

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes; a negative one reads the rest of a block. Empty at the end."""
        import ray

        if not self._rest and (block := next(self._blocks, None)) is not None:
            self._rest = ray.get(block)
        end = len(self._rest) if size < 0 else size
        part, self._rest = self._rest[:end], self._rest[end:]
        return part
