"""The users file: made, changed, read again, and refused where it is nobody's to trust."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mc.errors import BadAccount, UsersUnusable
from mc.users import Users, add_user, ha1

OTHER = "guest:printers:" + "0" * 32


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "users"


def written(file: Path, text: str, mode: int = 0o600) -> Path:
    file.write_text(text)
    file.chmod(mode)
    return file


def test_account_is_what_htdigest_would_write(file: Path) -> None:
    add_user(file, "admin", "secret")
    digest = hashlib.md5(b"admin:libvirt_mc:secret").hexdigest()
    assert file.read_text() == f"admin:libvirt_mc:{digest}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert Users(file).ha1("admin") == digest


def test_password_is_changed_and_nothing_else(file: Path) -> None:
    written(file, f"{OTHER}\nadmin:libvirt_mc:{'1' * 32}\nadmin:printers:{'2' * 32}\n")
    add_user(file, "monitor", "watch")
    add_user(file, "admin", "näw pass:word")
    assert file.read_text().splitlines() == [
        OTHER,
        f"admin:printers:{'2' * 32}",
        f"monitor:libvirt_mc:{ha1('monitor', 'watch')}",
        f"admin:libvirt_mc:{ha1('admin', 'näw pass:word')}",
    ]
    assert Users(file).names() == {"admin", "monitor"}
    assert [path.name for path in file.parent.iterdir()] == ["users"]


def test_file_keeps_its_owner(file: Path) -> None:
    written(file, f"{OTHER}\n")
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
    owner = file.stat().st_uid
    add_user(file, "admin", "secret")
    assert file.stat().st_uid == owner


def test_new_file_belongs_to_the_owner_of_its_folder(file: Path) -> None:
    if os.geteuid() == 0:
        os.chown(file.parent, 65534, 65534)
    add_user(file, "admin", "secret")
    assert file.stat().st_uid == file.parent.stat().st_uid


def test_link_stays_a_link(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    add_user(link, "admin", "secret")
    assert link.is_symlink()
    assert Users(file).names() == Users(link).names() == {"admin"}


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("", "x"),
        ("a:b", "x"),
        ("a\n", "x"),
        ("a\0", "x"),
        ("a", ""),
        ("a", "x\ny"),
        ("a", "\0"),
        ("a", "x\r"),
    ],
)
def test_impossible_account_changes_nothing(file: Path, name: str, password: str) -> None:
    written(file, f"{OTHER}\n")
    with pytest.raises(BadAccount):
        add_user(file, name, password)
    assert file.read_text() == f"{OTHER}\n"


def test_account_is_not_added_to_a_file_that_others_may_use(file: Path) -> None:
    written(file, f"{OTHER}\n", 0o644)
    with pytest.raises(UsersUnusable, match="chmod 600"):
        add_user(file, "admin", "secret")
    assert file.read_text() == f"{OTHER}\n"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_file_that_others_may_use_is_refused(file: Path, mode: int) -> None:
    add_user(file, "admin", "secret")
    file.chmod(mode)
    with pytest.raises(UsersUnusable, match="chmod 600"):
        Users(file).names()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no account"),
        (f"{OTHER}\n", "no account"),
        ("admin:libvirt_mc:secret\n", "line 1"),
        (f"a:libvirt_mc:{'1' * 32}\nb:libvirt_mc\n", "line 2"),
        (f"a:libvirt_mc:{'g' * 32}\n", "line 1"),
        (f":libvirt_mc:{'1' * 32}\n", "line 1"),
        (f"\n\n{OTHER}\nx\n", "line 4"),
        (f"{OTHER}\n" * 30_000, "longer than"),
    ],
)
def test_file_that_is_no_users_file_is_refused(file: Path, text: str, reason: str) -> None:
    with pytest.raises(UsersUnusable, match=reason):
        Users(written(file, text)).names()


def test_what_is_not_there_or_no_file_is_refused(file: Path) -> None:
    with pytest.raises(UsersUnusable, match="No such file"):
        Users(file).names()
    file.mkdir()
    with pytest.raises(UsersUnusable, match=r"directory|not a file"):
        Users(file).names()


def test_account_is_not_added_to_a_file_that_is_none(file: Path) -> None:
    text = f"{OTHER}\n" * 30_000
    for content in (text, "no account\n"):
        written(file, content)
        with pytest.raises(UsersUnusable):
            add_user(file, "admin", "secret")
        assert file.read_text() == content


def test_accounts_that_are_added_at_once_are_all_there(file: Path) -> None:
    names = [f"user-{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: add_user(file, name, "secret"), names))
    assert Users(file).names() == set(names)


def test_pipe_in_place_of_the_file_keeps_nobody_waiting(file: Path) -> None:
    os.mkfifo(file, 0o600)
    with pytest.raises(UsersUnusable, match="not a file"):
        Users(file).names()


def test_blank_lines_and_line_ends_of_windows_do_no_harm(file: Path) -> None:
    written(file, f"\r\na:libvirt_mc:{'A' * 32}\r\n\r\n")
    assert Users(file).ha1("a") == "a" * 32


def test_change_counts_at_once_also_for_the_worse(file: Path) -> None:
    add_user(file, "admin", "secret")
    users = Users(file)
    assert users.ha1("monitor") is None
    add_user(file, "monitor", "watch")
    assert users.ha1("monitor") == ha1("monitor", "watch")
    file.chmod(0o644)
    for _ in range(2):
        with pytest.raises(UsersUnusable):
            users.ha1("admin")
    file.chmod(0o600)
    assert users.ha1("admin") == ha1("admin", "secret")
    file.unlink()
    with pytest.raises(UsersUnusable):
        users.ha1("admin")
    add_user(file, "admin", "other")
    assert users.ha1("admin") == ha1("admin", "other")
