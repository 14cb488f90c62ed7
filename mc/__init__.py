"""A management controller for libvirt's virtual machines: what a BMC is to a server."""

__version__ = "0.1.0"
