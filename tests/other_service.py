"""A service that is not the controller."""

import http.server
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread


@contextmanager
def other_service(status: int, body: str, **headers: str) -> Iterator[int]:
    """The port of a service that is no controller, and answers everything alike."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_PUT = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
