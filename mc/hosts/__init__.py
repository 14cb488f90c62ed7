"""Hosts, each of which is one libvirt."""
