"""The headers of every answer, whoever makes it."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

EVERY_ANSWER = {
    # A GET may act, and what an answer tells is true only now.
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""An answer may have others of these names."""
SERVER = {"Server": "libvirt_http_mc"}
"""In place of the versions of CherryPy and Python."""
