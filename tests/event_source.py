"""A client of `GET /events`, as a browser's EventSource is one."""

import http.client
import json
import time
from collections.abc import Callable
from typing import Any, Self

from tests.daemon import Daemon
from tests.lab import until

PATIENCE = 30.0


class EventSource:
    """A stream that has begun, which `next` reads event by event; or the `problem` instead.

    `with EventSource(daemon) as events: name, data = events.next()`
    """

    def __init__(self, daemon: Daemon) -> None:
        # Longer than two heartbeats.
        self.connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)
        self.connection.request("GET", "/events", headers={"Accept": "text/event-stream"})
        self.response = self.connection.getresponse()
        if self.status != http.HTTPStatus.OK:
            self.problem = json.loads(self.response.read())
            self.close()

    @property
    def status(self) -> int:
        return self.response.status

    def line(self) -> bytes:
        """The next line; empty at the end of the stream."""
        return self.response.readline()

    def next(self) -> tuple[str, Any]:
        """The name and the JSON of the next event; EOFError at the end of the stream."""
        name = ""
        deadline = time.monotonic() + PATIENCE
        while line := self.line():
            # Signs of life may come for ever.
            assert time.monotonic() < deadline, f"no event within {PATIENCE:g} s"
            field, _, value = line.rstrip(b"\n").partition(b": ")
            if field == b"event":
                name = value.decode()
            elif field == b"data":
                return name, json.loads(value)
        raise EOFError

    def wait_for(self, name: str, holds: Callable[[Any], object] = lambda data: True) -> Any:
        """The JSON of the next event of this name that holds."""

        def found() -> list[Any]:
            event, data = self.next()
            return [data] if event == name and holds(data) else []

        return until(found, PATIENCE, f"event {name!r}")[0]

    def wait_for_machine(self, name: str, state: str) -> Any:
        def holds(machine: Any) -> bool:
            return (machine["name"], machine["state"]) == (name, state)

        return self.wait_for("machine", holds)

    def close(self) -> None:
        self.response.close()
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
