"""What a disk may hold after a power cut: a model of it, fed by the calls of a real run.

Bytes of a file are safe once the file was synced, names in a folder once the folder was. All else
may be there or not. While `Disk` watches, every `os.fsync`, `os.rename` and `os.replace` that
Python makes is followed by three images of what a cut at this moment may leave behind:

- "synced": nothing but what was synced;
- "names": all names, but only the bytes that were synced (a file that was renamed too early is
  empty: the order of ext4 with delayed allocation);
- "all": everything.
"""

import os
import shutil
from pathlib import Path


class Disk:
    """Watches a folder, which must be there; `check(image)` is called for each image of it.

    Attributes:
        moments: how many times it was looked at.
    """

    def __init__(self, root, images, check):
        self.root, self.images, self.check = Path(root), Path(images), check
        self.bytes = {}  # inode of a file -> its bytes that are safe
        self.names = {}  # inode of a folder -> its names that are safe: name -> inode
        self.moments = 0
        self.kinds = {}  # inode -> whether it is a folder, of all that was ever seen
        for folder, _, files in os.walk(self.root):
            self._keep_names(folder)
            for name in files:
                self._keep_bytes(Path(folder) / name)

    def watch(self, monkeypatch):
        """From now on."""
        for name in ("fsync", "rename", "replace"):
            monkeypatch.setattr(os, name, self._after(getattr(os, name)))

    def _after(self, function):
        def called(*given, **named):
            found = function(*given, **named)
            if function.__name__ == "fsync":
                self._synced(Path(os.readlink(f"/proc/self/fd/{given[0]}")))
            self._look()
            return found

        return called

    def _synced(self, path):
        if self.root not in (path, *path.parents):
            return
        (self._keep_names if path.is_dir() else self._keep_bytes)(path)

    def _keep_bytes(self, path):
        inode = os.stat(path).st_ino
        self.kinds[inode], self.bytes[inode] = False, path.read_bytes()

    def _keep_names(self, folder):
        found = {entry.name: entry.inode() for entry in os.scandir(folder)}
        self.kinds[os.stat(folder).st_ino], self.names[os.stat(folder).st_ino] = True, found

    def _look(self):
        self.moments += 1
        for kind in ("synced", "names", "all"):
            image = self.images / f"{self.moments}-{kind}"
            self._make(image, os.stat(self.root).st_ino, kind)
            self.check(image)
            shutil.rmtree(image)

    def _now(self):
        """inode -> path, of all that is there now."""
        found = {os.stat(self.root).st_ino: self.root}
        for folder, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                path = Path(folder) / name
                found[os.stat(path).st_ino] = path
        return found

    def _make(self, image, inode, kind):
        there = self._now()
        image.mkdir()
        names = self.names.get(inode, {})
        if kind != "synced":
            names = {entry.name: entry.inode() for entry in os.scandir(there[inode])}
        for name, one in names.items():
            # what was removed since may come back, as a name that was synced; so may its bytes
            is_folder = there[one].is_dir() if one in there else self.kinds.get(one, False)
            if is_folder and (kind == "synced" or one in there):
                self._make(image / name, one, kind)
            elif not is_folder:
                written = self.bytes.get(one, b"")
                if kind == "all":
                    written = there[one].read_bytes()
                (image / name).write_bytes(written)
