"""What can be called, and what it answers."""
