"""A controller of very many hosts, as far as the console page is concerned.

It tells what it is given and nothing else: real hosts in this number are as many processes, which
would leave the page no processor to be measured on.
"""

import json
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

from tests.hypervisor import uuid_of

_FILES = Path(__file__).parent.parent / "mc/web/console"
_SINCE = "2027-01-15T08:00:00Z"

Machines = Mapping[str, Sequence[tuple[str, str]]]
"""By host, a name and a state each; the UUIDs are numbered from 0 on each host."""


class ManyHosts(ThreadingHTTPServer):
    """Serves the page, these hosts, and one stream in which they are told one by one."""

    daemon_threads = True

    def __init__(self, machines: Machines) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.machines = machines
        self.port: int = self.server_port
        self.closing = Event()

    def told(self, host: str) -> dict[str, object]:
        return {"name": host, "state": "up", "since": _SINCE, "machines": None, "url": ""}

    def listed(self, host: str) -> list[dict[str, object]]:
        return [
            {
                "host": host,
                "id": None,
                "name": name,
                "uuid": uuid_of(number),
                "state": state,
                "power": "off" if state == "shut off" else "on",
            }
            for number, (name, state) in enumerate(self.machines[host])
        ]


class _Handler(BaseHTTPRequestHandler):
    server: ManyHosts

    def handle(self) -> None:
        # A page that is left does not wait for its answers.
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        file = _FILES / ("console.html" if self.path == "/" else Path(self.path).name)
        if self.path == "/events":
            self._stream()
        elif self.path == "/hosts":
            self._answer(HTTPStatus.OK, [self.server.told(host) for host in self.server.machines])
        elif self.path == "/service":
            self._answer(HTTPStatus.OK, {"grace_seconds": 15})
        elif file.is_file():
            media_type, _ = mimetypes.guess_type(file.name)
            self._send(HTTPStatus.OK, media_type or "", file.read_bytes())
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"detail": "not told"})

    def _stream(self) -> None:
        self._send(HTTPStatus.OK, "text/event-stream", b"")
        for host in self.server.machines:
            self._event("host", self.server.told(host))
            self._event("libvirt", {"host": host, "reachable": True})
            self._event("host", self.server.told(host))
            self._event("machines", self.server.listed(host))
        self.server.closing.wait()

    def _event(self, name: str, data: object) -> None:
        self.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())

    def _answer(self, status: HTTPStatus, told: object) -> None:
        self._send(status, "application/json", json.dumps(told).encode())

    def _send(self, status: HTTPStatus, media_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """What was asked is of no interest."""


@contextmanager
def many_hosts(machines: Machines) -> Iterator[ManyHosts]:
    with ManyHosts(machines) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
