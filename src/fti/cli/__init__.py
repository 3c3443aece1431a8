"""One command line for everything, `fti`."""
