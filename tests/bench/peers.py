"""What the daemon is measured against: CherryPy handlers of the plainest kind.

`python -m tests.bench.peers constant|fork URI` serves on a free port and prints it.
"""

import json
import subprocess
import sys

import cherrypy

_STATE = json.dumps({"state": "running", "power": "on", "reason": "booted"}).encode()


class Constant:
    """Answers the same bytes every time: what CherryPy itself costs."""

    exposed = True

    def GET(self, *path: str) -> bytes:
        cherrypy.response.headers["Content-Type"] = "application/json"
        return _STATE


class Fork:
    """Starts a virsh for each request, as the script of 2018 did."""

    exposed = True

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def GET(self, machine: str, *path: str) -> bytes:
        command = ["virsh", "-c", self._uri, "domstate", "--reason", machine]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        cherrypy.response.headers["Content-Type"] = "application/json"
        return json.dumps({"state": done.stdout.strip()}).encode()


def main(kind: str, uri: str) -> None:
    """Serve until SIGTERM."""
    settings = {"environment": "production", "log.screen": False, "server.socket_port": 0}
    cherrypy.config.update(settings)
    dispatcher = {"/": {"request.dispatch": cherrypy.dispatch.MethodDispatcher()}}
    cherrypy.tree.mount(Constant() if kind == "constant" else Fork(uri), "/service", dispatcher)
    cherrypy.engine.signals.subscribe()
    cherrypy.engine.start()
    print(cherrypy.server.bound_addr[1], flush=True)
    cherrypy.engine.block()


if __name__ == "__main__":
    main(*sys.argv[1:])
