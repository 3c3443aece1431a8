"""The production profile: its servers on one host, and what others need to run it on many."""
