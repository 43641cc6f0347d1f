"""The machine: standard streams, files, console."""
