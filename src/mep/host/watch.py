"""Hearing about changes of files, by inotify: no polling."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from inotify_simple import INotify, flags

# A file changes by being written and closed, or by a rename over it: both are seen from its directory.
_CHANGES: Final = (
    flags.CLOSE_WRITE | flags.MOVED_TO | flags.MOVED_FROM | flags.CREATE | flags.DELETE | flags.ATTRIB
)


class Watch:
    """Watches the directories of some files. `fileno()` is readable when `changed()` has something to say.

    A directory that does not exist is not watched; one that is replaced is found again by `set_paths`.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._inotify = INotify(nonblocking=True)
        self._names: dict[int, tuple[Path, set[str]]] = {}
        self.set_paths(paths)

    def fileno(self) -> int:
        return int(self._inotify.fileno())

    def set_paths(self, paths: Iterable[Path]) -> None:
        """Watch these files from now on. A link's target is watched as well. Privilege: read its directory.

        A name may be a pattern, as `*.j2`: each file of its directory that has such a name, also a new one.
        """
        wanted: dict[Path, set[str]] = {}
        for path in paths:
            for place in {path.absolute(), path.resolve()}:
                wanted.setdefault(place.parent, set()).add(place.name)
        for watch, (directory, _) in list(self._names.items()):
            if directory not in wanted:
                del self._names[watch]
                try:
                    self._inotify.rm_watch(watch)
                except OSError:
                    pass  # the directory is gone, and its watch with it
        for directory, names in wanted.items():
            try:
                self._names[self._inotify.add_watch(str(directory), _CHANGES)] = (directory, names)
            except OSError:
                continue

    def changed(self) -> set[Path]:
        """Return the watched files that changed since the last call. Privilege: none."""
        found: set[Path] = set()
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:  # it has no watch of its own; who knows what was lost
                return {d / n for d, ns in self._names.values() for n in ns}
            if event.wd not in self._names:
                continue
            directory, names = self._names[event.wd]
            if event.name in names or any(fnmatchcase(event.name, name) for name in names):
                found.add(directory / event.name)
        return found

    def close(self) -> None:
        self._inotify.close()
