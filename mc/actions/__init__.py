"""Performing the verbs."""
