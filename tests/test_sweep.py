"""The lists of many hosts, read at once: embedded hypervisors, some with a frozen virsh."""

import faulthandler
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mc.errors import NoAnswer, Unreachable
from mc.hosts.sweep import Lists, Sweep
from mc.machine.machines import Machine, Machines
from mc.virsh import Listing
from tests.hypervisor import hypervisor, number_of, open_virsh
from tests.lab import processes, until

PATIENCE = 60.0
VM, NAMES = "vm", ["a", "b", "c"]


class Source:
    """A host with one machine, as a sweep sees it; `first` is done before each question."""

    def __init__(self, name: str, uri: str) -> None:
        self.name = name
        self.virsh = open_virsh(uri)
        self.first: Callable[[], object] = lambda: None
        self.begun = 0
        self._uri = uri
        self._machines = Machines(self.virsh)

    def listing(self) -> Listing:
        self.first()
        self.begun += 1
        return self.virsh.listing()

    def listed(self, listing: Listing, *, last: bool) -> list[Machine] | None:
        return self._machines.joined(*listing.result(), last=last)

    def destroy(self) -> None:
        self.virsh.destroy(number_of(self.virsh, VM))

    def destroy_once(self) -> None:
        self.first = lambda: None
        self.destroy()

    def freeze(self) -> int:
        """Stop its only virsh, which is connected; the id of that."""
        self.virsh.connect()
        (pid,) = [pid for pid in processes.descendants(os.getpid()) if self._is_mine(pid)]
        processes.freeze(pid)
        return pid

    def _is_mine(self, pid: int) -> bool:
        return self._uri.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[list[Source]]:
    with ExitStack() as stack:
        made = []
        for name in NAMES:
            made.append(Source(name, hypervisor(tmp_path / f"{name}.xml", [(VM, "running")])))
            stack.callback(made[-1].virsh.close)
        yield made


@contextmanager
def sweep(
    sources: list[Source], *, seconds: float = PATIENCE, read: float = PATIENCE
) -> Iterator[Sweep]:
    """A sweep of these, which end with it."""
    made = Sweep(sources, seconds, read)
    try:
        yield made
    finally:
        for source in sources:
            source.virsh.close()
        made.close()


def states(lists: Lists) -> dict[str, str]:
    """The state of the machine on each host that has told of it."""
    return {host: one.state for host, (one,) in lists.machines.items()}


def waiting() -> int:
    """How many threads wait for a sweep of which somebody else has to be told first."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return len(re.findall(r'in wait_for\n.*/sweep\.py", line \d+ in read', file.read()))


def test_every_host_is_read(sources: list[Source]) -> None:
    with sweep(sources) as every:
        lists = every.read()
        assert states(lists) == dict.fromkeys(NAMES, "running")
        assert lists.errors == {}
        sources[1].destroy()
        assert states(every.read()) == {"a": "running", "b": "shut off", "c": "running"}


def test_host_that_cannot_be_reached_is_an_error_among_the_others(
    sources: list[Source], tmp_path: Path
) -> None:
    (tmp_path / "broken.xml").write_text("<node>")
    broken = Source("broken", f"test://{tmp_path}/broken.xml")
    with sweep([broken, *sources]) as every:
        lists = every.read()
    assert states(lists) == dict.fromkeys(NAMES, "running")
    assert list(lists.errors) == ["broken"]
    assert isinstance(lists.errors["broken"], Unreachable)


def test_sweep_is_shared_by_who_asked_before_it_began(sources: list[Source]) -> None:
    """And by nobody else: who asked later is told what has changed meanwhile."""
    frozen, changed, _ = sources
    pid = frozen.freeze()
    with sweep(sources) as shared, ThreadPoolExecutor() as threads:
        try:
            first = threads.submit(shared.read)
            until(lambda: changed.begun, PATIENCE, "first sweep")
            # It waits for its turn on the only session, so what the first sweep sees was before.
            changed.destroy()
            later = [threads.submit(shared.read) for _ in range(4)]
            until(waiting, PATIENCE, "four that wait", lambda number: number == 4)
        finally:
            processes.thaw(pid)
        assert states(first.result(PATIENCE)) == dict.fromkeys(NAMES, "running")
        answers = [one.result(PATIENCE) for one in later]
    assert states(answers[0]) == {"a": "running", "b": "shut off", "c": "running"}
    assert all(answer is answers[0] for answer in answers)
    assert [source.begun for source in sources] == [2, 2, 2]


def test_frozen_virsh_is_late_and_keeps_no_other_host_out(sources: list[Source]) -> None:
    for source in sources[1:]:
        # What takes long under load is to connect.
        source.virsh.connect()
    sources[0].freeze()
    with sweep(sources, seconds=0.5) as short:

        def others() -> Lists:
            lists = short.read()
            assert isinstance(lists.errors["a"], NoAnswer)
            return lists

        until(others, PATIENCE, "other hosts", lambda lists: states(lists).keys() == {"b", "c"})
    # The question is still the first one, however often it was looked for its answer.
    assert sources[0].begun == 1


def test_late_answer_is_not_taken_for_one_to_a_later_question(sources: list[Source]) -> None:
    late = sources[0]
    pid = late.freeze()
    with sweep([late], seconds=0.2) as short:
        assert isinstance(short.read().errors["a"], NoAnswer)
        processes.thaw(pid)
        # It will say that the machine runs, which is not so any more when it is asked again.
        late.first = late.destroy_once
        lists = until(short.read, PATIENCE, "answer", lambda lists: "a" in lists.machines)
    assert states(lists) == {"a": "shut off"}


def test_virsh_that_stays_frozen_is_given_up_and_replaced(sources: list[Source]) -> None:
    pid = sources[0].freeze()
    with sweep(sources[:1], seconds=0.2, read=0.3) as short:
        assert isinstance(short.read().errors["a"], NoAnswer)
        until(lambda: states(short.read()), PATIENCE, "answer by another virsh")
        until(lambda: processes.state(pid) == "", PATIENCE, "end of the frozen virsh")


def test_frozen_virsh_is_given_up_though_nobody_asks(sources: list[Source]) -> None:
    """While its host is down, and the session that may be opened first is this one."""
    pid = sources[0].freeze()
    with sweep(sources[:1], seconds=0.2, read=0.5) as short:
        assert isinstance(short.read().errors["a"], NoAnswer)

        def is_given_up() -> bool:
            short.tidy()
            return processes.state(pid) == ""

        until(is_given_up, PATIENCE, "end of the frozen virsh")


def test_nothing_is_left_of_what_is_late_at_the_end(sources: list[Source]) -> None:
    pid = sources[0].freeze()
    with sweep(sources, seconds=0.2) as short:
        assert isinstance(short.read().errors["a"], NoAnswer)
        assert processes.state(pid) == "T"
    assert processes.state(pid) == ""
