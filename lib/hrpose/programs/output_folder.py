"""A folder of results that replaces what it wrote itself, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from hrpose.ops.atomic_io import atomic_write, naming_full_disk, sha256

ACCOUNT = "written.jsonl"


class OutputFolder:
    """Writes files into a folder and keeps account of them.

    The account is `written.jsonl` in it, a line {"path", "sha256"} for each file, added before the
    file is written. A file that is not in it, or was changed since, belongs to the user.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.account = folder / ACCOUNT
        self.digests: dict[str, set[str]] = {}  # path below the folder, with / -> its SHA-256s
        self.account_is_foreign = os.path.lexists(self.account)
        if self.account.is_file() and not self.account.is_symlink():
            lines = self.account.read_bytes().splitlines()
            known = [self._recall(line) for line in lines]
            self.account_is_foreign = bool(lines) and not known[0]

    def _recall(self, line: bytes) -> bool:
        """Add a line of the account and return whether it is one; it may be cut short.

        A path that leads out of the folder is not added.
        """
        try:
            entry = json.loads(line)
            name, digest = PurePosixPath(entry["path"]), str(entry["sha256"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return False
        if not name.is_absolute() and ".." not in name.parts:
            self.digests.setdefault(name.as_posix(), set()).add(digest)
        return True

    def refuse_foreign(self, names: Iterable[str]) -> None:
        """FileExistsError if any of these is there and was not written by this class."""
        foreign = [name for name in names if self._is_foreign(name)]
        foreign += [ACCOUNT] * self.account_is_foreign
        if foreign:
            more = f", and {len(foreign) - 1} more" * (len(foreign) > 1)
            raise FileExistsError(
                f"{self.folder / foreign[0]} is there already and was not written by this program, "
                f"or was changed since{more}; name another folder with --output, or move it away"
            )

    def clear(self) -> None:
        """Remove what an earlier run wrote, if it is as it was, and folders that are empty then."""
        for name in list(self.digests):
            self.discard(name)
            for parent in list(PurePosixPath(name).parents)[:-1]:
                folder = self.folder / parent
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
        self.digests.clear()
        self.account.unlink(missing_ok=True)

    def discard(self, name: str) -> None:
        """Remove a file if it is there and as it was written."""
        path = self.folder / name
        if os.path.lexists(path) and not self._is_foreign(name):
            path.unlink()

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all; `name` is its path below the folder, with /.

        Errors: FileExistsError for a file of the user's; OSError where it cannot be written
        """
        self.refuse_foreign([name])
        self._record(name, hashlib.sha256(content).hexdigest())
        atomic_write(self.folder / name, lambda file: file.write(content))

    def adopt(self, name: str, written: Path) -> None:
        """Take in a file that is complete now, from beside its place or from there.

        Until then it is no file of ours: after a kill it is not replaced.
        """
        self._record(name, sha256(written))
        written.replace(self.folder / name)

    def _record(self, name: str, digest: str) -> None:
        self.digests.setdefault(name, set()).add(digest)
        line = json.dumps({"path": name, "sha256": digest})
        with naming_full_disk(self.account):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.account.open("a") as account:
                account.write(f"\n{line}" if account.tell() else line)  # a cut line ends here

    def _is_foreign(self, name: str) -> bool:
        if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
            raise ValueError(f"{name} leads out of {self.folder}; name photos without .. in them")
        path = self.folder / name
        if not os.path.lexists(path):
            return False
        if path.is_symlink() or not path.is_file() or name not in self.digests:
            return True
        return hashlib.sha256(path.read_bytes()).hexdigest() not in self.digests[name]
