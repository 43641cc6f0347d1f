"""Stores on disks that cannot do everything, and shared by several users."""

import errno
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from benchmark.commands import plots, status, verify
from benchmark.config.loading import conf_dir
from benchmark.data.files import write_atomically
from benchmark.store.cells import Store
from tests.helpers.cells import metrics_of, usual
from tests.helpers.commands import command
from tests.helpers.stores import KEY, fake

TINY = ["model=logistic", "fl.rounds=3", "fl.evaluate_every=1", "fl.num_clients=8",
        "fl.num_byzantine=1", "engine.checkpoint_every=1", "executor=inline"]  # fmt: skip
NOBODY = 65534


def test_a_disk_whose_folders_cannot_be_flushed(tmp_path, monkeypatch):
    flush, refused = os.fsync, []

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            refused.append(handle)
            raise OSError(error, os.strerror(error))
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    for error in (errno.EINVAL, errno.ENOTSUP):
        assert command(*TINY, f"outputs={tmp_path / str(error)}").code == 0
        assert refused and len(metrics_of(tmp_path / str(error))) == 1
    error = errno.EIO
    ended = command(*TINY, f"outputs={tmp_path / str(error)}")
    assert ended.code == 1 and "Input/output error" in ended.err.splitlines()[-1]


def test_a_file_that_cannot_be_flushed_is_not_stored(tmp_path, monkeypatch):
    def fsync(handle):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Invalid argument"):
        Store(tmp_path).plan([], [])


def test_a_disk_that_renames_over_nothing(tmp_path, monkeypatch):
    """Plans and checkpoints take the place of those before."""
    rename = Path.replace

    def replace(source, target):
        if target.exists():
            raise FileExistsError(errno.EEXIST, "File exists")
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    for seed in ("0", "0,1", "0,1"):
        ended = command("-m", *TINY, f"seed={seed}", f"outputs={tmp_path}")
        assert ended.code == 0, ended.err
    assert len(metrics_of(tmp_path)) == 2 and len(Store(tmp_path).planned()) == 2


@pytest.fixture
def umask():
    before = os.umask(0o077)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("mode", usual([0o2770], [0o2770, 0o2775, 0o2750]))
def test_a_folder_shared_with_a_group_decides_who_may_read_and_write(tmp_path, umask, mode):
    """Whatever the umask of who makes something there."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    ended = command("-m", *TINY, "fl.num_byzantine=1,3", f"outputs={shared / 'a' / 'store'}")
    assert ended.code == 0, ended.err
    store = Store(shared / "a" / "store")
    store.quarantine(store.cells / store.keys()[0])
    plots.main([f"outputs={store.folder}"])
    write_atomically(store.folder / "data.gz", b"x")
    made = list(shared.rglob("*"))
    names = {path.name for path in made}
    assert {"plans", "index", "checkpoints", "quarantine", "figures", "summary.csv"} <= names
    for path in made:
        wanted = mode if path.is_dir() else mode & 0o666
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_checkpoints_have_the_permissions_of_other_files(tmp_path, umask, monkeypatch):
    """What safetensors writes is for its owner only."""
    monkeypatch.setattr("benchmark.store.checkpoints.Checkpoints.remove", lambda *_: None)
    umask(0o002)
    assert command(*TINY, f"outputs={tmp_path}").code == 0
    (path,) = (tmp_path / "checkpoints").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o664


@pytest.fixture
def another(umask):
    """A folder of ours, and a function that does work there as another user, of its group."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs to become another user")
    if not all(each.stat().st_mode & stat.S_IXOTH for each in conf_dir().parents):
        pytest.skip("another user cannot read the suite where it is")
    folder = Path(tempfile.mkdtemp())  # pytest's are within a folder that is ours alone
    folder.chmod(0o755)

    def work_as_another(work):
        child = os.fork()
        if child == 0:
            code = 70
            try:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                code = work()
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    yield folder, work_as_another
    shutil.rmtree(folder)


def test_two_users_of_one_store(another):
    folder, as_another = another
    shared = folder / "shared"
    shared.mkdir()
    os.chown(shared, 0, NOBODY)
    shared.chmod(0o2770)
    store = Store(shared / "store")
    store.plan([], [])
    store.write(fake(), "failed", reason="ours", traceback="ours")

    def work():
        theirs = Store(store.folder)
        theirs.plan([fake()], [])
        assert theirs.status(KEY) == "failed"
        theirs.write(fake(), "failed", reason="theirs", traceback="theirs")
        return 0

    assert as_another(work) == 0
    assert store.summary(KEY)["reason"] == "theirs"
    store.write(fake(), "failed", reason="ours again", traceback="ours")
    assert store.summary(KEY)["reason"] == "ours again" and store.planned() == {KEY}


def test_a_store_for_reading_only(another, umask):
    """A cell that is stored needs nothing to be written; one that is not is one line."""
    folder, as_another = another
    umask(0o022)
    given = [*TINY, f"outputs={folder / 'store'}"]
    assert command("-m", *given, "seed=0,1").code == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    def work():
        assert command("-m", *given, "seed=0,1").code == 0
        alone = command(*given)
        assert alone.code == 0 and "test accuracy" in alone.out and not alone.err
        assert status.main([f"outputs={folder / 'store'}"]) == 0
        assert verify.main([f"outputs={folder / 'store'}"]) == 0
        new = command(*given, "seed=2")
        assert new.code == 1 and "make it writable" in new.err and new.err.count("\n") == 1
        return 0

    assert as_another(work) == 0
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_store_that_another_user_keeps_to_himself(another):
    folder, as_another = another
    assert command(*TINY, f"outputs={folder / 'store'}").code == 0

    def work():
        ended = command(*TINY, f"outputs={folder / 'store'}")
        assert ended.code == 1 and "Permission denied" in ended.err and ended.err.count("\n") == 1
        return 0

    assert as_another(work) == 0
