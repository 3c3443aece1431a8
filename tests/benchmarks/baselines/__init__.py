"""Servers to compare with, each a process of its own: what most people write, and what BentoML takes by itself."""
