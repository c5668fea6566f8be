"""The descriptors of a worker that its tasks must not change: standard input, output and error, and the worker's own.

A task may close any descriptor, as a program does that becomes a daemon. A file that is opened later then gets the
number of the closed descriptor, and would receive what the next task prints. So the worker keeps copies of standard
output and standard error, and checks after each task that all numbers still refer to the same files.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Callable

#: The worker's own descriptors have numbers from this one on if possible, because user code that closes descriptors by
#: number mostly closes low ones.
_HIGH = 512


class Descriptors:
    """Checks and restores the worker's descriptors.

    Args:
        link: Descriptor of the socket to the agent.
    """

    def __init__(self, link: int) -> None:
        self._link = link
        self._copies = [_open_high(os.devnull), _copy_high(1), _copy_high(2)]
        self._folder = _open_folder()
        self._path = _current_folder()
        own = [link, *self._copies, *([self._folder] if self._folder >= 0 else [])]
        #: Identity of the link, of the copies and of the folder, by descriptor.
        self._own = {fd: identity(fd) for fd in own}
        self._check = _checker((1, 2))
        self._lowest = _lowest_free()

    @property
    def output(self) -> tuple[int, int]:
        """The copies of standard output and of standard error."""
        return self._copies[1], self._copies[2]

    def are_intact(self) -> bool:
        """Return True if all descriptors refer to the files to which they must refer.

        Standard input is put back without a check, because that takes less time than the check.
        """
        return self.are_standard_intact() and self.has_link

    def are_standard_intact(self) -> bool:
        """Return the same as `are_intact`, but only for standard input, output and error."""
        try:
            os.dup2(self._copies[0], 0)
            self._check()
        except OSError:
            return False
        return True

    @property
    def are_the_same(self) -> bool:
        """True if standard output and standard error refer to the files to which they must refer."""
        try:
            self._check()
        except OSError:
            return False
        return True

    def restore(self) -> None:
        """Put standard input, output and error back.

        Raises:
            OSError: The task has closed the link, a copy or the folder.
        """
        for fd, expected in self._own.items():
            if identity(fd) != expected:
                raise OSError(f"the task has closed descriptor {fd}, which belongs to the worker")
        for fd, copy in enumerate(self._copies):
            os.dup2(copy, fd)

    @property
    def has_link(self) -> bool:
        """True if the link was not closed."""
        try:
            return identity(self._link) == self._own[self._link]
        except OSError:
            return False

    def return_to_folder(self) -> bool:
        """Change to the folder in which the worker began. Return False if this is not possible.

        The path of the current folder shows if the task has changed the root folder, or has closed the worker's
        descriptor and opened another folder, which got its number.
        """
        if self._folder >= 0:
            try:
                os.fchdir(self._folder)
            except OSError:
                return False
        return _current_folder() == self._path

    def are_plenty(self) -> bool:
        """Return True if at least half of the descriptors are free that were free when the worker began."""
        return _lowest_free() <= (self._lowest + resource.getrlimit(resource.RLIMIT_NOFILE)[0]) // 2

    def have_flags(self) -> bool:
        """Return True if writing to standard output and error waits while the pipe is full, and processes inherit both.

        Standard input is inherited as well, because it is put back after each task.
        """
        return all(os.get_blocking(fd) and os.get_inheritable(fd) for fd in (1, 2))

    def set_flags(self) -> None:
        """Let writing wait while the pipe is full, and let processes that tasks start inherit both descriptors."""
        for fd in (1, 2):
            os.set_blocking(fd, True)
            os.set_inheritable(fd, True)


def identity(fd: int) -> tuple[int, int]:
    """Return the device and the inode of the file to which a descriptor refers.

    Raises:
        OSError: The descriptor is closed.
    """
    stat = os.fstat(fd)
    return stat.st_dev, stat.st_ino


def _checker(fds: Sequence[int]) -> Callable[[], None]:
    """Return a function that raises `OSError` if a descriptor does not refer any more to the same file as now."""
    try:
        epoll = _new_epoll()
        for fd in fds:
            epoll.register(fd, 0)
    except (AttributeError, OSError):
        # The system has no epoll, or a file is of a kind that cannot be polled.
        return partial(_compare, {fd: identity(fd) for fd in fds})
    modify = epoll.modify

    def check() -> None:
        # The kernel finds an entry only if descriptor and file are those that were registered. This call takes 0.4 us,
        # and `os.fstat` takes 1.6 us.
        for fd in fds:
            modify(fd, 0)

    return check


def _compare(expected: Mapping[int, tuple[int, int]]) -> None:
    for fd, file in expected.items():
        if identity(fd) != file:
            raise OSError(f"descriptor {fd} refers to another file")


def _new_epoll() -> select.epoll:
    """Return an epoll object with a high descriptor."""
    low = select.epoll()
    try:
        return select.epoll.fromfd(_copy_high(low.fileno()))
    finally:
        low.close()


def _copy_high(fd: int) -> int:
    """Return a copy of a descriptor, with a number from `_HIGH` on, or with a lower one if the system refuses these."""
    base = _HIGH
    while True:
        try:
            return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, base)
        except OSError:
            # `base` is above this process's limit of open files.
            if base < 32:
                raise
            base //= 2


def _open_high(path: str) -> int:
    low = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _copy_high(low)
    finally:
        os.close(low)


def _open_folder() -> int:
    """Return a descriptor of the current folder, or -1 if the folder cannot be opened."""
    try:
        return _open_high(".")
    except OSError:
        return -1


def _lowest_free() -> int:
    lowest = os.dup(0)
    os.close(lowest)
    return lowest


def _current_folder() -> str | None:
    """Return the path of the current folder, or None if the folder was removed."""
    try:
        return os.getcwd()
    except OSError:
        return None
