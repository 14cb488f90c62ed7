"""Where our code meets CherryPy: at its public seams, and not often."""

import ast
import http.client
import json
import signal
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "mc").rglob("*.py"))
# As many as a status request may pass between our code and the libraries.
MOST = 30
_REQUESTS = 20


def imports(tree: ast.AST) -> set[str]:
    """Every name that is imported, with the module that it is from."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module}
    return names


def made(*trees: ast.AST) -> set[str]:
    """Every attribute that is set, and every function that is defined."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return names | {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def bases(tree: ast.AST) -> list[ast.AST]:
    """Our own modules from which the bases of its classes are."""
    named = {
        base.id
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Name)
    }
    modules = {
        name.rpartition(".")[0]
        for name in imports(tree)
        if name.startswith("mc.") and name.rpartition(".")[2] in named
    }
    return [ast.parse((ROOT / f"{name.replace('.', '/')}.py").read_text()) for name in modules]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_are_used_by_their_public_names(path: Path) -> None:
    """And cheroot not at all."""
    tree = ast.parse(path.read_text())
    used = [name.split(".") for name in imports(tree)]
    used = [name for name in used if name[0] in ("cherrypy", "cheroot")]
    assert not any(name[0] == "cheroot" for name in used)
    assert not any(part.startswith("_") for name in used for part in name)
    if not used:
        return
    assert path.is_relative_to(ROOT / "mc" / "web")
    private = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_")
        if not node.attr.endswith("__")
    ]
    # A class may use what one of our own that it is derived from keeps.
    assert {node.attr for node in private} <= made(tree) | made(*bases(tree))


def test_status_passes_seldom_between_our_code_and_the_libraries() -> None:
    command = [sys.executable, "-m", "tests.crossings", "test:///default"]
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process,
        ExitStack() as stack,
    ):
        assert process.stdout
        try:
            port = int(process.stdout.readline().split(" for ")[0].rpartition(":")[2])
            connection = stack.enter_context(
                closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60))
            )

            def ask() -> None:
                connection.request("GET", "/service/test/state_controller/status")
                response = connection.getresponse()
                assert (response.status, response.read()[:1]) == (200, b"{")

            for number in range(2 * _REQUESTS):
                if number == _REQUESTS:
                    # The first ones made what is made once.
                    process.send_signal(signal.SIGUSR1)
                ask()
            process.send_signal(signal.SIGUSR1)
            crossings = json.loads(process.stdout.readline())
        finally:
            process.terminate()
    assert len(crossings) > 10
    assert sum(crossings.values()) <= MOST * _REQUESTS, crossings
