"""Machines: what they are, whose turn it is, and what feeds them."""
