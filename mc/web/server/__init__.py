"""Bytes and requests: connections, whose turn it is, and what gets to the application."""
