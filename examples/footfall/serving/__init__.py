"""The Bento of this project."""
