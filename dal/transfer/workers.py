"""Processes that share work: what is done to each row is Python, of which a process runs on one core at a time.

They are ended by their connection: one that finds its leader gone, however that ended, does what it is at and no more.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Protocol, TypeVar

from dal.errors import Unavailable

T = TypeVar("T", contravariant=True)
R = TypeVar("R", covariant=True)


class Work(Protocol[T, R]):
    """What a process does. It is pickled, as are its tasks, what comes of them, and its errors."""

    def opened(self) -> AbstractContextManager[Callable[[T], R]]:
        """Within the process: whatever it needs, for as long as it has tasks."""
        ...


def can_be_shared(work: Work[Any, Any]) -> bool:
    """Whether another process can be told of it: a clock that was made in place, for one, it cannot."""
    try:
        pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


def share(work: Work[T, R], tasks: Iterable[T], count: int) -> Iterator[R]:
    """What comes of each task, as it comes, of so many processes. Raises what a task raises, Unavailable.

    Whoever stops listening, or is stopped by an error, waits until each process has done what it is at.
    """
    waiting, workers = iter(tasks), list[_Worker]()
    try:
        for _ in range(count):
            workers.append(_Worker(work))
        listening = {worker.connection: worker for worker in workers}
        while listening:
            for connection in wait(list(listening)):
                worker = listening[connection]  # type: ignore[index]
                answer = worker.answer()
                try:
                    worker.give(next(waiting))
                except StopIteration:
                    del listening[worker.connection]
                if answer is not None:
                    yield answer
    finally:
        for worker in workers:
            worker.connection.close()
        for worker in workers:
            worker.process.wait()


class _Worker:
    def __init__(self, work: Work[Any, Any]) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dal.transfer.workers", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the leader, who lets each finish what it is at
            )
        self.give(work)

    def give(self, task: Any) -> None:
        """Let it have its work, or a task. Of one that has ended, ``answer`` tells."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(task)

    def answer(self) -> Any:
        """What came of its task; None that it is ready for the first."""
        try:
            is_well, answer = self.connection.recv()
        except (EOFError, OSError):
            raise Unavailable(f"a process beside this one ended, with status {self.process.wait()}") from None
        if not is_well:
            raise answer
        return answer


def _serve(connection: Connection) -> None:
    work = connection.recv()
    try:
        with work.opened() as do:
            # Nothing is taken before everything is open: a task that was sent to a process still starting would be
            # done after whoever sent it is gone, and nobody would know.
            connection.send((True, None))
            while True:
                connection.send((True, do(connection.recv())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        connection.send((False, error))


def main() -> None:
    """Do the work of a leader that is at the other end of this file descriptor."""
    with Connection(int(sys.argv[1])) as connection, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve(connection)


if __name__ == "__main__":
    main()
