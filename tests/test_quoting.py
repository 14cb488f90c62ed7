"""What is sent to virsh arrives as it is, and a machine's name means that machine only."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mc.errors import NoSuchMachine, Refused
from mc.machine.machines import Machines
from mc.virsh.quoting import decode, encode
from mc.virsh.session import Session
from tests.hypervisor import STATES, hypervisor, open_virsh, uuid_of

WORDS = list(STATES)

CONTROL = [*range(0x20), 0x7F]
# What virsh's parser, a shell or the framing might take for their own.
SPECIAL = [
    *(b" ", b"'", b'"', b"\\", b";", b"#", b"%", b"$HOME", b"`", b"!", b"!!", b"*", b"&", b"~"),
    *(b"-", b"--", b"--help", b"=", b"virsh # ", b"<''", b">''", b"echo", b"error: "),
    *("\u2028".encode(), "\x85".encode(), "é".encode(), "🖥".encode(), b"\x80", b"\xff"),
]

LIKE_OTHERS = ["5", "+5", " 5", "5 ", "05", "-5", "1", " 1", "+1", "\t1", "0", "-1", "9" * 30]
LIKE_OPTIONS = ["--help", "--x", "--", "-x", "-", "--domain", "--domain=1", "--reason"]
LIKE_UUIDS = ["0f5a9c1e-8d43-4b7e-9a35-2f1d8c6b7e90", "f" * 32, "1" * 32, "0" * 36]
LIKE_URLS = ["machine", "machines", "%2F", "a%2Fb", "a+b", "?wait=1", ".", "..", "..."]
LIKE_OUTPUT = ["-", "- x", "1 - x", "Domain: 'x'", "  state.state=5", "error: x", "virsh # "]
BLANKS = ["x", "x ", " x", "  x", "x  ", " ", "   ", "a b", "a  b", "a\tb", "\ta", "a\t"]
MARKS = ["a\rb", "\r", "a'b", "''", 'a"b', "a;b", ";", "#", "a #b", "<x>", "&amp;", "\\", "$HOME"]
UNICODE = ["ü", "u\u0308", "测试", "🖥", "a\u2028b", "a\x85b", "\ufeffx", "\u202ex", "İ", "ß"]
ODD_NAMES = [
    *(*LIKE_OTHERS, *LIKE_OPTIONS, *LIKE_UUIDS, *LIKE_URLS, *LIKE_OUTPUT[1:]),
    *(*BLANKS, *MARKS, *UNICODE, "n" * 200, "'" * 60, "\r" * 60, "X"),
]


def soon() -> float:
    return time.monotonic() + 30


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with closing(Session("virsh", "test:///default")) as session:
        session.greet(soon())
        yield session


def sendable(raw: bytes) -> bytes:
    return bytes(one for one in raw if one not in CONTROL)


def byte_strings() -> st.SearchStrategy[bytes]:
    texts = st.text(max_size=8).map(lambda text: text.encode("utf-8", "ignore"))
    pieces = st.one_of(st.sampled_from(SPECIAL), st.binary(max_size=8), texts)
    return st.lists(pieces, max_size=30).map(b"".join).map(sendable)


@settings(deadline=None, max_examples=400)
@given(raw=byte_strings())
def test_virsh_receives_every_argument_unchanged(session: Session, raw: bytes) -> None:
    assert session.run(["echo", "--string", decode(raw)], soon()) == raw


def test_every_byte_but_the_control_bytes_arrives(session: Session) -> None:
    every = sendable(bytes(range(256)))
    arguments = [every, *(before + bytes([one]) for before in (b"", b"do") for one in every)]
    changed = [
        raw for raw in arguments if session.run(["echo", "--string", decode(raw)], soon()) != raw
    ]
    assert changed == []


@settings(deadline=None, max_examples=50)
@given(raws=st.lists(byte_strings(), min_size=1, max_size=5))
def test_arguments_stay_apart(session: Session, raws: list[bytes]) -> None:
    # Only the first can start with `--`: echo takes the others by their place.
    texts = [decode(raws[0]), *(f"x{decode(raw)}" for raw in raws[1:])]
    answer = session.run(["echo", "--string", *texts], soon())
    assert answer == b" ".join(encode(text) for text in texts)


# Readline binds Meta-# to `comment this line out and accept it`: what follows would be a command.
def test_argument_cannot_become_a_command() -> None:
    with closing(Session("virsh", "test:///default")) as session:
        session.greet(soon())
        with pytest.raises(Refused, match="failed to get domain"):
            session.run(["domstate", "--domain", "\udca3destroy test #"], soon())
        assert session.run(["domstate", "--domain", "test"], soon()) == b"running\n"


@pytest.mark.parametrize("byte", CONTROL)
def test_control_byte_is_not_sent(session: Session, byte: int) -> None:
    with pytest.raises(ValueError, match="control bytes"):
        session.run(["echo", "--string", f"a{chr(byte)}\udca3b"], soon())
    assert session.run(["echo", "--string", "next"], soon()) == b"next"


@given(raw=st.binary())
def test_text_carries_all_bytes(raw: bytes) -> None:
    assert encode(decode(raw)) == raw


def machines_named(file: Path, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Machines in a test hypervisor's file, of every state: UUID and state by name."""
    states = [(name, WORDS[number % len(WORDS)]) for number, name in enumerate(names)]
    hypervisor(file, states)
    # XML reads a bare CR as the end of a line.
    file.write_bytes(file.read_bytes().replace(b"\r", b"&#13;"))
    return {name: (uuid_of(number), state) for number, (name, state) in enumerate(states)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quoting")


@pytest.fixture(scope="module")
def odd(folder: Path) -> Iterator[tuple[Machines, dict[str, tuple[str, str]]]]:
    """A hypervisor that has machines of all the odd names at once, and what they are."""
    expected = machines_named(folder / "odd.xml", ODD_NAMES)
    with closing(open_virsh(f"test://{folder}/odd.xml")) as virsh:
        yield Machines(virsh), expected


Odd = tuple[Machines, dict[str, tuple[str, str]]]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_machine_is_found_by_its_odd_name(odd: Odd, name: str) -> None:
    machines, expected = odd
    found = machines.find(name)
    assert (found.name, found.uuid, found.state) == (name, *expected[name])


@pytest.mark.parametrize("name", ODD_NAMES)
def test_status_is_that_of_the_machine_of_the_odd_name(odd: Odd, name: str) -> None:
    machines, expected = odd
    assert machines.status(name).state == expected[name][1]


@pytest.mark.parametrize(
    "name", ["2", " 2", "+2", "7", "00", "--X", "X ", "é", "e\u0301", "%", "*"]
)
def test_name_that_no_machine_bears_finds_none(odd: Odd, name: str) -> None:
    machines, _ = odd
    with pytest.raises(NoSuchMachine):
        machines.find(name)


def test_odd_names_are_listed_as_they_are(odd: Odd) -> None:
    machines, expected = odd
    listed = {machine.name: (machine.uuid, machine.state) for machine in machines.list_all()}
    assert listed == expected


def test_one_session_serves_all_odd_names(odd: Odd) -> None:
    """A session that broke would have taken the test hypervisor's state with it."""
    machines, _ = odd
    assert machines.list_all() == machines.list_all()


def machine_names() -> st.SearchStrategy[str]:
    """What both XML and libvirt take."""
    text = st.text(
        st.characters(
            codec="utf-8",
            exclude_categories=["Cc"],
            include_characters="\t\r",
            exclude_characters="/\ufffe\uffff",
        ),
        min_size=1,
        max_size=40,
    )
    numbers = st.from_regex(r"[ \t\r]{0,2}[+-]?[0-9]{1,3} ?", fullmatch=True)
    pieces = [*"\t '\"\\;#%$`!*&~-=<>.ü🖥", "--help", "virsh # ", "error: "]
    lines = st.lists(st.sampled_from(pieces), min_size=1, max_size=8).map("".join)
    return st.one_of(text, numbers, lines)


@settings(deadline=None, max_examples=40)
@given(names=st.lists(machine_names(), min_size=1, max_size=20, unique=True))
def test_every_machine_is_found_by_its_own_name(folder: Path, names: list[str]) -> None:
    expected = machines_named(folder / "any.xml", names)
    with closing(open_virsh(f"test://{folder}/any.xml")) as virsh:
        machines = Machines(virsh)
        found = [machines.find(name) for name in names]
        states = [machines.status(name).state for name in names]
    assert {one.name: (one.uuid, one.state) for one in found} == expected
    assert states == [state for _, state in expected.values()]


PADDED_UUIDS = [
    uuid_of(0).replace("-", "") + "    ",
    "    " + uuid_of(0).replace("-", ""),
    uuid_of(0).replace("-", "").replace("6d63", "6d63 ") + "---",
    uuid_of(0).replace("-", " "),
]


@pytest.mark.parametrize("name", PADDED_UUIDS)
def test_name_that_virsh_reads_as_the_uuid_of_another_is_a_name(folder: Path, name: str) -> None:
    """libvirt skips blanks and hyphens wherever they are among a UUID's 36 characters."""
    file = folder / "padded.xml"
    machines_named(file, ["other", name])
    with closing(open_virsh(f"test://{file}")) as virsh:
        assert Machines(virsh).find(name).name == name
