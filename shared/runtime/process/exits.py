"""Exit codes of a process."""

DONE, FOUND_WRONG, BAD_USAGE = 0, 1, 2

WRONG_LOG = 3
"""The log is not the one of the tables; a restart does not help."""
