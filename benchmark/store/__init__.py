"""Results on disk, whole or not there at all."""
