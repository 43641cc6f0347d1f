"""Federated learning as values: what a cell is, and who takes part."""
