"""Directories that scripts write: tried before hours of work, one writer at a time, and only what
carries our mark is ever deleted.

A mark is a file of a known name in the directory. The process that writes there holds a lock on it,
which the system lets go when the process ends, however it ends. So three cases are told apart:
without the mark the directory is somebody's own and stays as it is; with it and locked another
process is at work; with it and free it is what an ended process left, and may go. Standard library
only.
"""
import errno
import fcntl
import json
import os
import resource
import shutil
import tempfile

KEPT = {"lost+found"}  # what a file system has in its root


class OutputFault(Exception):
    pass


def explain(error):
    """An OSError's text, with the limit that was met."""
    text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if error.errno == errno.EFBIG:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit != resource.RLIM_INFINITY:
            text += f"; the limit of a file's size, `ulimit -f`, is {limit} bytes here"
    return text


def sync_directory(path):
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Mark:
    """The locked mark of a directory. `told` is what it says, a JSON object."""

    def __init__(self, directory, name):
        self.path, self.handle, self.told = os.path.join(directory, name), None, {}

    def take(self, make):
        """True: it is ours now. False: there is none (and none was made). OutputFault: another
        process holds it."""
        try:
            self.handle = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0),
                                  0o644)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise OutputFault(
                "another process is writing there now; wait for it, or name another output")
        except OSError:
            pass  # a file system without locks
        with open(self.path, encoding="utf-8", errors="replace") as file:
            try:
                self.told = json.loads(file.read() or "{}")
            except ValueError:
                self.told = {}
        return True

    def tell(self, told):
        self.told = told
        text = json.dumps(told).encode()
        os.pwrite(self.handle, text, 0)
        os.ftruncate(self.handle, len(text))
        os.fsync(self.handle)

    def release(self):
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None

    def remove(self):
        if self.handle is not None:
            os.unlink(self.path)
        self.release()


def check_file(path):
    """A file that will be written after long work: its folder is made, and tried. Ends the program
    with a reason where it cannot be."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        if os.path.lexists(path) and not os.path.isfile(path):
            raise OSError(errno.EEXIST, "something that is not a file has that name", path)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SystemExit(f"{path} cannot be written: {explain(error)}")


def claim_directory(path, name):
    """An empty directory with our mark, locked until the process ends: made, or emptied where it
    carries the mark already. The directory itself stays (it may be a mount point or a link's
    target). OutputFault where it holds anything of another's."""
    try:
        os.makedirs(path, exist_ok=True)
    except FileExistsError:
        raise OutputFault(f"{path} is in the way of a directory of that name")
    mark = Mark(path, name)
    there = set(os.listdir(path)) - KEPT
    if there and name not in there:
        raise OutputFault(f"{path} is not empty and was not written by this program: name another "
                          "directory, or empty it yourself")
    try:
        mark.take(make=True)
    except OutputFault as fault:
        raise OutputFault(f"{path}: {fault}")
    for entry in sorted(there - {name}):
        whole = os.path.join(path, entry)
        if os.path.isdir(whole) and not os.path.islink(whole):
            shutil.rmtree(whole)
        else:
            os.unlink(whole)
    return mark


class Staging:
    """A directory that is there whole or not at all. What is written goes to `directory`; publish()
    puts it under its name.

    Where the output does not exist, `directory` is OUTPUT.partial, or a like name that nobody uses,
    and takes the output's name at the end. Where it exists (a mount point, a link, `.`), it is a
    folder inside, and its files move up one by one, the one named `last` at the end, so that the
    output's own folder is never replaced. What a killed process left is finished if it was whole
    and the same, else begun anew.
    """
    INSIDE = ".partial"

    def __init__(self, output, name, last):
        self.output, self.name, self.last = output, name, last
        self.mark = self.directory = None
        self.inside = os.path.isdir(output)
        if not self.inside and os.path.lexists(output):
            what = ("a link to nothing" if os.path.islink(output)
                    else "in the way of a directory of that name")
            raise OutputFault(f"{output} is {what}")

    def holds(self):
        """The names in the output, without ours and without what every file system has."""
        return set(os.listdir(self.output)) - KEPT - {self.name + self.INSIDE,
                                                      self.name} if self.inside else set()

    def was_begun(self):
        return self.inside and os.path.isdir(os.path.join(self.output, self.name + self.INSIDE))

    def candidates(self):
        if self.inside:
            yield os.path.join(self.output, self.name + self.INSIDE)
            raise OutputFault(f"{self.output} holds {self.name + self.INSIDE}, which was not "
                              "written by this program: rename it")
        yield self.output + ".partial"
        for number in range(1, 1000):
            yield f"{self.output}.partial-{number}"
        raise OutputFault(f"{self.output}.partial and a thousand such names are taken")

    def begin(self):
        """Makes and locks the directory: the first thing to do, for it tries whether the output can
        be written at all."""
        for directory in self.candidates():
            mark = Mark(directory, self.name)
            try:
                os.makedirs(directory)
                mark.take(make=True)
            except FileExistsError:
                try:
                    if not os.path.isdir(directory) or not mark.take(make=False):
                        continue  # somebody's own
                except OutputFault as fault:
                    raise OutputFault(f"{self.output}: {fault}")
            except OSError as error:
                raise OutputFault(f"{self.output} cannot be written: {explain(error)}")
            self.directory, self.mark = directory, mark
            sync_directory(directory)
            return

    def clear(self):
        """Removes what is in the directory, and what of it an ended process has moved up."""
        for name in self.mark.told.get("moved", []) if self.inside else []:
            if os.path.lexists(os.path.join(self.output, name)):
                os.unlink(os.path.join(self.output, name))
        for name in os.listdir(self.directory):
            if name != self.name:
                os.unlink(os.path.join(self.directory, name))

    def publish(self):
        """Under its name. What fails here leaves all where it is: the work is done, and the same
        command ends it."""
        try:
            sync_directory(self.directory)
            if self.inside:
                names = sorted(set(os.listdir(self.directory)) - {self.name,
                                                                  self.last}) + [self.last]
                self.mark.tell({"moved": sorted(set(self.mark.told.get("moved", [])) | set(names))})
                for name in names:
                    os.rename(os.path.join(self.directory, name), os.path.join(self.output, name))
                sync_directory(self.output)
                self.mark.remove()
                os.rmdir(self.directory)
            else:
                os.rename(self.directory, self.output)
                self.mark.path = os.path.join(self.output, self.name)
                self.mark.remove()
                sync_directory(os.path.dirname(os.path.abspath(self.output)))
        except OSError as error:
            self.mark.release()
            raise OutputFault(f"{explain(error)}. The result is whole in {self.directory}: make "
                              f"room for it, and the same command puts it into {self.output}")
        self.directory = None

    def abandon(self):
        """Takes back what was begun, and nothing else."""
        if not self.directory:
            return
        try:
            self.clear()
            self.mark.remove()
            os.rmdir(self.directory)
        except OSError:
            pass  # the reason why is told already; what is left carries the mark
        self.directory = None
