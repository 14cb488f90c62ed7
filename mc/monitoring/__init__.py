"""Whether things work, and what has happened."""
