"""The controller, as little of HTTP as that takes: http.client alone would take twice the time."""

import json
import os
import re
import socket

from jobs import JOB_SECONDS, LEAST_ANSWER_SECONDS, Failed, clock, slurp

CONNECT_SECONDS = 5.0
READ_SECONDS = 15.0
"""How long the controller gets to tell something; as long as to do something would be too long."""

LONGEST_ANSWER = 1 << 24

Settings = dict[str, str]


class Refused(Failed):
    """Raised if the controller refuses; `told` is its answer, empty if that is no JSON object."""

    def __init__(self, words: str, told: "dict[str, object]") -> None:
        super().__init__(words)
        self.told = told


class Machine:
    """One machine. Every method raises Failed if the controller refuses, or cannot be asked."""

    def __init__(self, controller: "Controller", uuid: str) -> None:
        if not re.fullmatch("[0-9a-f-]+", uuid):
            raise Failed("this is not a machine's UUID")
        self._uuid = uuid
        self._controller = controller

    def power(self) -> str:
        """`on` or `off`."""
        return str(self._told("power", "GET", "state_controller/status"))

    def boots_once(self) -> "str | None":
        """The device of the next boot only, if one is set."""
        once = self._told("once", "GET", "boot")
        return None if once is None else str(once)

    def do(self, verb: str) -> str:
        self._told("changed", "POST", f"state_controller/{verb}")
        return ""

    def boot_once(self, device: str) -> str:
        """Set the device of the next boot: by IPMI none holds for longer."""
        self._told("changed", "PUT", "boot", json.dumps({"device": device, "once": True}))
        return ""

    def _told(self, member: str, method: str, path: str, body: str = "") -> object:
        """A member of the controller's answer."""
        answer = self._controller.request(method, f"/service/{self._uuid}/{path}", body)
        try:
            told: object = json.loads(answer)[member]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Failed("something that is not the controller has answered") from error
        return told


def load(path: str) -> tuple[Settings, dict[str, int]]:
    """The settings that `configure.py` has written, and each machine's port, by UUID."""
    if os.stat(path).st_mode & 0o077:
        raise Failed(f"{path} holds passwords and can be read by others: chmod 600")
    settings = json.loads(slurp(path))
    return settings, settings["ports"]


class Controller:
    """The controller that the settings name: `scheme`, `host`, `port`; `user`, `password`; `ca`.

    `path` is what comes before the paths of the controller: that of a proxy, which takes it off,
    and then `/hosts/H` if only the machines of that libvirt are meant; either may be missing.
    One that cannot be connected to by then is away: its answer is not waited for.
    """

    def __init__(self, settings: Settings, connect_by: float) -> None:
        self._settings = settings
        self._connect_by = connect_by
        host = settings["host"]
        self._name = f"{f'[{host}]' if ':' in host else host}:{settings['port']}"
        self._proxy, self._of_host = split(settings.get("path", ""))

    def request(self, method: str, path: str, body: str = "") -> str:
        """The body of an answer that is a success. Raises Failed, with the controller's words."""
        path = self._of_host + path
        status, head, answer = self._exchange(method, path, body, "")
        challenge = re.search(r"^www-authenticate: *digest (.*)$", head, re.I | re.M)
        if status == 401 and challenge and "user" in self._settings:
            # Of the path as it comes to the controller, which compares the two.
            credentials = self._digest(challenge[1], method, path)
            status, head, answer = self._exchange(method, path, body, credentials)
        if status == 200:
            return answer
        told = json_object(answer)
        raise Refused(self._reason(status, head, told), told)

    def address(self, of_host: str) -> str:
        """The URL by which `configure.py` reaches the machines of one host; `of_host` is its path.

        That is `/hosts/H`.
        """
        return f"{self._settings['scheme']}://{self._name}{self._proxy}{of_host}"

    def _reason(self, status: int, head: str, told: "dict[str, object]") -> str:
        """Why it refuses, on which host, and what can be done about it."""
        words = told.get("detail") or "no reason given"
        if "since" in told:
            words = f"host {told.get('host')} is down since {told['since']}: {words}"
        elif status >= 500 and "host" in told:
            words = f"host {told['host']}: {words}"
        notes = [f"HTTP status {status}"]
        retry = re.search(r"^retry-after: *(\d+)$", head, re.I | re.M)
        if status == 503 and retry:
            notes.append(f"try again in {retry[1]} s")
        if status == 404 and (self._proxy or self._of_host):
            notes.append(f"it was asked at {self.address(self._of_host)}")
        if status == 409 and (host := host_of_first(told.get("urls"))):
            notes.append(f"to reach but one: configure.py --controller {self.address(host)}")
        return f"{words} ({'; '.join(notes)})"

    def _exchange(self, method: str, path: str, body: str, more: str) -> tuple[int, str, str]:
        """Status, head and body of the answer. By HTTP/1.0 its end is the connection's end."""
        head = (
            f"{method} {self._proxy}{path} HTTP/1.0\r\nHost: {self._name}\r\n"
            f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n{more}\r\n"
        )
        seconds = READ_SECONDS if method == "GET" else JOB_SECONDS
        deadline = clock() + seconds
        with self._connection(self._settings["host"]) as connection:
            connection.settimeout(seconds)
            connection.sendall((head + body).encode())
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
                if len(received) > LONGEST_ANSWER or clock() > deadline:
                    raise Failed("the controller's answer does not end")
        start, _, answer = received.decode("utf-8", "replace").partition("\r\n\r\n")
        if not (found := re.match(r"HTTP/1\.\d (\d{3})", start)):
            raise Failed("the controller's answer is not HTTP")
        return int(found[1]), start.replace("\r\n", "\n"), answer

    def _connection(self, host: str) -> socket.socket:
        left = self._connect_by - clock()
        try:
            # Nobody waits any more for a job that has waited for another.
            timeout = max(left, LEAST_ANSWER_SECONDS) if left > 0 else CONNECT_SECONDS
            connection = socket.create_connection((host, self._settings["port"]), timeout)
            if self._settings["scheme"] == "https":
                connection = self._encrypted(connection, host)
        except OSError as error:
            raise Failed(f"the controller at {host} cannot be reached: {error}") from error
        return connection

    def _encrypted(self, connection: socket.socket, host: str) -> socket.socket:
        import ssl  # Takes 7 ms.

        context = ssl.create_default_context(cafile=self._settings.get("ca"))
        return context.wrap_socket(connection, server_hostname=host)

    def _digest(self, challenge: str, method: str, path: str) -> str:
        """The header that answers a challenge: RFC 7616, with MD5 and qop=auth."""
        found = re.findall(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^",\s]+))', challenge)
        given = {key.lower(): quoted or plain for key, quoted, plain in found}
        if given.get("algorithm", "MD5").upper() != "MD5" or "auth" not in given.get("qop", ""):
            raise Failed("the controller wants another kind of authentication than digest by MD5")
        user = self._settings["user"]
        secret = md5(f"{user}:{given['realm']}:{self._settings['password']}")
        client = os.urandom(8).hex()
        proof = f"{secret}:{given['nonce']}:00000001:{client}:auth:{md5(f'{method}:{path}')}"
        fields = {name: given[name] for name in ("realm", "nonce", "opaque") if name in given}
        fields |= {"username": user, "uri": path, "cnonce": client, "response": md5(proof)}
        quoted = ", ".join(f'{name}="{value}"' for name, value in fields.items())
        return f"Authorization: Digest {quoted}, algorithm=MD5, qop=auth, nc=00000001\r\n"


def split(path: str) -> tuple[str, str]:
    """What of an address's path is a proxy's, and the `/hosts/H` at its end, if it is there."""
    found = re.search(r"/hosts/[^/]+$", path)
    return (path[: found.start()], found[0]) if found else (path, "")


def host_of_first(urls: object) -> str:
    """The `/hosts/H` of the first of the machines that could be meant; empty if it is told none."""
    first = urls[0] if isinstance(urls, list) and urls else ""
    found = re.match(r"/hosts/[a-z0-9.-]+", str(first))
    return found[0] if found else ""


def json_object(text: str) -> "dict[str, object]":
    """The object that a text is; an empty one if it is none."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def md5(text: str) -> str:
    import hashlib  # Takes 4 ms.

    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
