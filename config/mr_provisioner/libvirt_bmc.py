"""Mr-Provisioner's BMC type for libvirt's virtual machines, by way of libvirt_http_mc.

To be copied into `mr_provisioner/bmc_types/`, and imported in that folder's `__init__.py`.

The BMC's IP address is that of the controller; its user name and password are those of an account
of the controller, or empty if the controller has none. What a machine's "BMC info" says:

    (nothing)                           http, port 9001, the machine of the same name
    https://:9443                       https, port 9443
    ?machine=my%20vm                    another name or UUID, percent-encoded
    https://host.lan:9001/?machine=vm1  another host than the BMC's IP, as its certificate wants
    https://:9001/?ca=/etc/ssl/lab.pem  the certificates to trust, in a file on this host
    http://:9001/hosts/kvm1             the machine that is on the controller's host kvm1
    https://proxy:443/mc/hosts/kvm1     the same by a proxy, which takes its own path, /mc, off

A controller of many hosts finds a machine whose name there is once, or by its UUID, wherever it is;
a name that is on several hosts needs `/hosts/H` or the UUID.

Anything else is refused: a bare `vm1` or `9443` might be meant as one thing and taken for another.

Without `ca`, certificates are checked against those that `requests` trusts, or those in the file
that the environment variable REQUESTS_CA_BUNDLE names. They are always checked.

It runs where Mr-Provisioner does: with Python 3.5 and newer, and `requests` 2.18 and newer.
"""

import re
from typing import Any, Dict
from urllib.parse import parse_qs, quote, urlsplit

import requests
from mr_provisioner.bmc_types import BMCError, BMCType, register_bmc_type

BMC_INFO = re.compile(r"(https?://[^/?#\s]*(/[^?#\s]*)?)?(\?[^#\s]*)?", re.IGNORECASE)
OWN_PATH = re.compile(r"(/hosts/[^/]+)?/service/.*")
"""Of a URL's path, what comes to the controller when a proxy has taken its own off."""

ENDS_IN_A_PORT = re.compile(r":\d+$")
PORT = 9001
CONNECT_SECONDS = 10
ANSWER_SECONDS = 90
"""The controller itself gives up sooner, and says why."""

BOOT_DEVICES = {"bios": "default", "cdrom": "cdrom", "disk": "disk", "none": "none", "pxe": "pxe"}
"""A boot order cannot say "enter the firmware's setup": `bios` is the machine's own order."""

VERBS = {
    "on": "power_on",
    "off": "force_off",
    "soft": "power_off",
    "cycle": "power_cycle",
    "reset": "force_reset",
}
RESTARTS = ("cycle", "reset")

ANSWERS = {"power": ("on", "off"), "changed": (True, False)}
"""What the controller's answers have, and what it may be; `changed` is in those to all actions."""


class Place:
    """Where a machine is controlled, from the BMC's IP address and the machine's BMC info."""

    def __init__(self, ip: str, name: str, info: str) -> None:
        """Raises BMCError if the info cannot be understood."""
        info = info.strip()
        # First of all, since the other complaints repeat the info.
        if "@" in info.partition("?")[0]:
            raise BMCError("BMC info: the BMC has the user name and the password, not the machine")
        if not BMC_INFO.fullmatch(info):
            raise BMCError(
                "BMC info {!r}: it begins with http://, https:// or ?, and has no blank or #,"
                " such as https://:{}/?machine=my%20vm".format(info, PORT)
            )
        try:
            parts = urlsplit(info)
            port = PORT if parts.port is None else parts.port
            if parts.port is None and ENDS_IN_A_PORT.search(parts.netloc):
                raise ValueError("ports are between 1 and 65535")  # Python 3.5 says nothing.
            query = parse_qs(
                # A plus sign is one, and to older Pythons a semicolon is an ampersand.
                parts.query.replace("+", "%2B").replace(";", "%3B"),
                keep_blank_values=True,
                strict_parsing=bool(parts.query),
                errors="strict",
            )
        except ValueError as error:
            raise BMCError("BMC info {!r}: {}".format(info, error)) from error
        # A slash too many means nothing.
        steps = [step for step in parts.path.split("/") if step]
        if "service" in steps or steps[-1:] == ["hosts"]:
            words = (
                "BMC info {!r}: its path ends in /hosts/H, the machine's name is in ?machine=NAME"
            )
            raise BMCError(words.format(info))
        if not port:
            raise BMCError("BMC info {!r}: no machine is controlled at port 0".format(info))
        for key, values in query.items():
            if key not in ("machine", "ca") or len(values) > 1 or not values[0]:
                words = "BMC info {!r}: there are machine=NAME and ca=FILE, once each"
                raise BMCError(words.format(info))
        host = parts.hostname or ip
        if not host:
            words = "BMC info {!r}: a host is needed, as the BMC has no IP address"
            raise BMCError(words.format(info))
        host = "[{}]".format(host) if ":" in host else host
        machine = query.get("machine", [name])[0]
        scheme = parts.scheme or "http"
        path = "".join("/" + step for step in steps)
        self.base = "{}://{}:{}{}".format(scheme, host, port, path)
        self.is_below = bool(path)
        """Whether the controller is asked below a path, a proxy's or that of one host."""
        self.url = "{}/service/{}".format(self.base, quote(machine, safe=""))
        self.trusted = query.get("ca", [None])[0]


class Digest(requests.auth.HTTPDigestAuth):
    """Signs the path that comes to the controller, which compares the two."""

    def build_digest_header(self, method: str, url: str) -> Any:
        own = OWN_PATH.search(urlsplit(url).path)
        return super().build_digest_header(  # type: ignore[no-untyped-call]
            method, own.group() if own else url
        )


class LibvirtBMC(BMCType):  # type: ignore[misc]
    """Sets what boots next and powers nothing; powers, and fails only if the aim is missed."""

    @property
    def name(self) -> str:
        return "libvirt_bmc"

    def validate_bmc_info(self, info: Any) -> bool:
        """Raises BMCError if it cannot be understood."""
        Place("127.0.0.1", "name", info or "")
        return True

    def set_bootdev(self, machine: Any, bootdev: str) -> None:
        """Set what the next boot is from, and that boot only, as BMCs do."""
        if bootdev not in BOOT_DEVICES:
            raise BMCError("there is no boot device {!r}: {}".format(bootdev, listed(BOOT_DEVICES)))
        body = {"device": BOOT_DEVICES[bootdev], "once": bootdev != "none"}
        self._call(machine, "PUT", "boot", "changed", json=body)

    def set_power(self, machine: Any, power_state: str) -> None:
        """`off` cuts the power, `soft` asks the guest; one that is off is started by a restart."""
        if power_state not in VERBS:
            raise BMCError("there is no power state {!r}: {}".format(power_state, listed(VERBS)))
        verb = VERBS[power_state]
        if power_state in RESTARTS and self.get_power(machine) == "off":
            verb = "power_on"
        self._call(machine, "POST", "state_controller/" + verb, "changed")

    def get_power(self, machine: Any) -> str:
        """`on` or `off`."""
        return str(self._call(machine, "GET", "state_controller/status", "power"))

    def deactivate_sol(self, machine: Any) -> None:
        """There is no serial console that could be active."""

    def get_sol_command(self, machine: Any) -> Any:
        raise BMCError("libvirt_http_mc has no serial console")

    def _call(self, machine: Any, method: str, path: str, member: str, json: Any = None) -> Any:
        """A member of the controller's answer. Raises BMCError, with its own sentence."""
        place = Place(machine.bmc.ip, machine.name, machine.bmc_info or "")
        answer = _ask(machine, place, method, path, json)
        if answer.status_code != requests.codes.ok:
            raise BMCError("{}: {}".format(machine.name, _sentence(answer, place)))
        try:
            return _member(answer, member)
        except ValueError as error:
            raise BMCError(
                "{}: the answer is not the controller's: {}".format(machine.name, error)
            ) from error


def listed(words: Dict[str, str]) -> str:
    """In the same order everywhere, which dictionaries have since Python 3.6 only."""
    return ", ".join(sorted(words))


def _ask(machine: Any, place: Place, method: str, path: str, json: Any) -> requests.Response:
    """Whatever is answered. Raises BMCError where nothing is."""
    bmc = machine.bmc
    account = None
    if bmc.username:
        account = Digest(bmc.username, bmc.password or "")
    try:
        return requests.request(
            method,
            "{}/{}".format(place.url, path),
            json=json,
            auth=account,
            verify=place.trusted or True,
            allow_redirects=False,
            timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
        )
    except ValueError as error:
        # A host that cannot be one, or a user name that no header can carry.
        words = "{}: the controller cannot be asked: {}"
        raise BMCError(words.format(machine.name, error)) from error
    except OSError as error:
        words = "{}: the controller cannot be reached: {}"
        raise BMCError(words.format(machine.name, error)) from error
    except (KeyError, AttributeError) as error:
        # requests takes it for granted that a demand for a digest has a realm and a nonce.
        words = "{}: the password is not asked for as it must be"
        raise BMCError(words.format(machine.name)) from error


def _member(answer: requests.Response, name: str) -> Any:
    """One of `ANSWERS`. Raises ValueError where something else has answered."""
    value = _told(answer).get(name)
    if value not in ANSWERS[name]:
        raise ValueError("{} is {!r}".format(name, value))
    return value


def _sentence(answer: requests.Response, place: Place) -> str:
    """Why it is refused, in the controller's own words (RFC 9457), on which host, and a way out.

    The status where something else has answered.
    """
    status = answer.status_code
    try:
        told = _told(answer)
    except ValueError:
        told = {}
    words = told.get("detail")
    if not isinstance(words, str) or not words:
        words = "HTTP status {} {}".format(status, answer.reason)
    host = told.get("host")
    if "since" in told:
        words = "host {} is down since {}: {}".format(host, told["since"], words)
    elif host and status >= requests.codes.server_error:
        words = "host {}: {}".format(host, words)
    if status == requests.codes.unavailable and answer.headers.get("Retry-After", "").isdigit():
        words += "; try again in {} s".format(answer.headers["Retry-After"])
    if status == requests.codes.not_found and place.is_below:
        words += "; it was asked at {}".format(place.base)
    # There are several, each on a host of its own.
    urls = told.get("urls")
    if status == requests.codes.conflict and isinstance(urls, list) and urls:
        path = str(urls[0]).partition("/service/")[0]
        words += "; BMC info whose path ends in {} is for the one there".format(path)
    return words


def _told(answer: requests.Response) -> Dict[str, Any]:
    """The JSON object that it is. Raises ValueError if it is none."""
    try:
        told = answer.json()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(told, dict):
        raise ValueError("it is no JSON object")
    return told


register_bmc_type(LibvirtBMC)
