"""Backups: whole, private, never overwritten, the first one kept for ever."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mc.boot.backup import Backups, file_stem
from mc.errors import BackupFailed

XML = "<domain type='test'><name>vm</name><graphics passwd='geheim ü'/></domain>\n"


def test_backup_is_the_whole_xml_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "backups"
    path = Backups(folder, 10).save("vm", XML)
    assert path.read_text("utf-8") == XML
    assert path.name.startswith("vm.xml.2") and path.name.endswith("Z.backup")
    assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == [path]


@pytest.mark.parametrize(
    "name",
    ["..", ".", "../../etc/passwd", "/etc/passwd", "a/b", "-rf", "a b", "ü", "\r\x1b", "%2F", "%d",
     "x" * 255, "ü" * 255, "a\udcffb", "vm.xml.20260101T000000.000000Z.backup", ".hidden"],
)  # fmt: skip
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "inner"
    backups = Backups(folder, 10)
    paths = [backups.save(name, XML), backups.save(name, XML)]
    assert sorted(folder.iterdir()) == paths
    assert list(tmp_path.iterdir()) == [folder]
    assert not any(path.name.startswith(".") for path in paths)


def test_names_do_not_clash() -> None:
    names = ["vm", "vm.xml", "vm.xml.", "VM", "v%6D", "v m", "x" * 300, "x" * 301, "ü" * 200]
    assert len({file_stem(name) for name in names}) == len(names)


def test_first_and_newest_stay(tmp_path: Path) -> None:
    backups = Backups(tmp_path, 3)
    paths = [backups.save("vm", f"{XML}{number}") for number in range(8)]
    other = backups.save("vm2", XML)
    assert sorted(tmp_path.iterdir()) == sorted([paths[0], *paths[-3:], other])
    assert paths == sorted(paths)


def test_first_of_the_machine_that_bears_the_name_now_stays(tmp_path: Path) -> None:
    """Not that of one that had the name before: nobody can take it back."""
    backups = Backups(tmp_path, 3)
    before, after = (XML.replace("<name>", f"<uuid>{uuid}</uuid><name>") for uuid in ("aa", "BB"))
    gone = [backups.save("vm", before) for _ in range(2)]
    paths = [backups.save("vm", after if number else after.lower()) for number in range(6)]
    assert sorted(tmp_path.iterdir()) == sorted([paths[0], *paths[-3:]])
    assert not any(path.exists() for path in gone)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    strangers = [tmp_path / "vm.xml.backup", tmp_path / "vm.xml.old.backup", tmp_path / "notes"]
    for path in strangers:
        path.write_text("mine")
    backups = Backups(tmp_path, 1)
    for _ in range(4):
        backups.save("vm", XML)
    assert all(path.read_text() == "mine" for path in strangers)


def test_what_a_crash_left_behind_is_cleared_away(tmp_path: Path) -> None:
    (stale, fresh) = (tmp_path / ".writing-1", tmp_path / ".writing-2")
    for path in (stale, fresh):
        path.write_text("half")
    os.utime(stale, (0, 0))
    backup = Backups(tmp_path, 1).save("vm", XML)
    assert sorted(tmp_path.iterdir()) == sorted([fresh, backup])


def test_clock_that_was_put_back_does_not_unseat_the_first(tmp_path: Path) -> None:
    ahead = tmp_path / "vm.xml.29990101T000000.000000Z.backup"
    ahead.write_text("first")
    paths = [Backups(tmp_path, 1).save("vm", XML) for _ in range(3)]
    assert sorted(tmp_path.iterdir()) == [ahead, paths[-1]]
    assert all(path.name > ahead.name for path in paths)


def test_no_two_names_share_their_backups(tmp_path: Path) -> None:
    """Whatever stands for the rest of a long name is no part of a short one."""
    long = "L" * 200
    stem = file_stem(long).removesuffix(".xml.")
    names = [long, stem, f"{long}x", stem.replace("@", "~"), stem.replace("@", "%40"), "L" * 180]
    assert len({file_stem(name) for name in names}) == len(names)
    backups = Backups(tmp_path, 1)
    for name in names:
        for text in ("first", "second"):
            backups.save(name, f"{name}: {text}")
    assert len(list(tmp_path.iterdir())) == 2 * len(names)


@pytest.mark.parametrize(
    "date",
    ["99991231T235959.999999Z", "99991231T235959.999998Z", "90000101T000000.000000Z",
     "20991128T112203.5Z", "20991128t112203.500000z", "2099112T112203.500000Z"],
)  # fmt: skip
def test_file_whose_date_cannot_be_ours_is_let_be_and_stops_nothing(
    tmp_path: Path, date: str
) -> None:
    """From the end of time, or written otherwise."""
    odd = tmp_path / f"vm.xml.{date}.backup"
    odd.write_text("odd")
    paths = [Backups(tmp_path, 2).save("vm", f"{number}") for number in range(5)]
    assert paths == sorted(paths)
    assert sorted(tmp_path.iterdir()) == [paths[0], *paths[-2:], odd]


def test_odd_files_stop_nothing(tmp_path: Path) -> None:
    loop, long = tmp_path / ".writing-loop", tmp_path / ".writing-long"
    loop.symlink_to(loop)
    long.symlink_to("x" * 300)
    (tmp_path / ".writing-folder").mkdir()
    (tmp_path / "vm.xml.20200101T000000.000000Z.backup").mkdir()
    for _ in range(5):
        assert Backups(tmp_path, 1).save("vm", XML).read_text("utf-8") == XML


def test_nothing_comes_after_the_last_date_that_can_be_ours(tmp_path: Path) -> None:
    (tmp_path / "vm.xml.89991231T235959.999999Z.backup").write_text("odd")
    backups = Backups(tmp_path, 2)
    assert [backups.save("vm", text).read_text() for text in ("1", "2", "3")] == ["1", "2", "3"]


def test_nothing_is_overwritten_by_many_at_once(tmp_path: Path) -> None:
    backups = Backups(tmp_path, 1000)
    with ThreadPoolExecutor(8) as threads:
        paths = list(threads.map(lambda n: backups.save(f"vm-{n % 8}", f"{n}"), range(200)))
    assert sorted(path.read_text() for path in paths) == sorted(str(n) for n in range(200))


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackupFailed, match="Not a directory") as caught:
        Backups(tmp_path / "file" / "backups", 1).save("vm", XML)
    assert caught.value.folder == str(tmp_path / "file" / "backups")


_SAVE_ON_A_SMALL_DISK = """
import resource, signal, sys
from pathlib import Path
from mc.boot.backup import Backups
from mc.errors import BackupFailed
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    Backups(Path(sys.argv[1]), 1).save("vm", "x" * 5000)
except BackupFailed as error:
    print(error)
"""


def test_disk_that_is_full_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the write fails half-way."""
    done = subprocess.run(
        [sys.executable, "-c", _SAVE_ON_A_SMALL_DISK, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_trouble_is_told_without_writing_anything(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert Backups(folder, 1).trouble() is None
    assert list(tmp_path.iterdir()) == []
    folder.mkdir(parents=True)
    assert Backups(folder, 1).trouble() is None
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("what", ["a file", "a link to nothing", "a link to itself"])
def test_trouble_is_what_saving_would_fail_by(tmp_path: Path, what: str) -> None:
    place = tmp_path / "place"
    if what == "a file":
        place.write_text("")
    else:
        place.symlink_to("nothing" if what == "a link to nothing" else "place")
    for folder in (place, place / "backups"):
        backups = Backups(folder, 1)
        assert str(place) in (backups.trouble() or "")
        with pytest.raises(BackupFailed):
            backups.save("vm", XML)


_TROUBLE = """
import sys
from pathlib import Path
from mc.boot.backup import Backups
print(Backups(Path(sys.argv[1]), 1).trouble())
"""


@pytest.mark.parametrize("folder", [".", "backups"])
def test_folder_of_somebody_else_is_trouble(tmp_path: Path, folder: str) -> None:
    """Root is like anybody else without the right to write everywhere."""
    tmp_path.chmod(0o500)
    rights = "-dac_override,-dac_read_search"
    as_anybody = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]
    done = subprocess.run(
        [*(as_anybody if os.geteuid() == 0 else []), sys.executable, "-c", _TROUBLE,
         tmp_path / folder],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith(str(tmp_path))
    assert f"cannot be written by the user with uid {os.geteuid()}" in done.stdout
    assert ("would be made" in done.stdout) == (folder == "backups")
