"""Who is told of every round of every cell: files, and what users have for it."""

from benchmark.trackers.base import Record, Tracked, Tracker
from benchmark.trackers.csv_file import CSV

__all__ = ["CSV", "Record", "Tracked", "Tracker"]
