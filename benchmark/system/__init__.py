"""The machine: standard streams, files, progress."""
