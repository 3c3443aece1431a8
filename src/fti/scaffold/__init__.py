"""Projects: a new one from a problem to begin with, and what an upgrade of the library changes in one."""
