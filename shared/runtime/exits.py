"""What a process's exit code says."""

DONE, FOUND_WRONG, BAD_USAGE = 0, 1, 2

WRONG_LOG = 3
"""The log is not the one of the tables: starting again does not help."""
