"""The commands: what each does with its arguments."""
