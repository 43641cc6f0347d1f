"""Time, memory and errors of rules on vectors, without training."""
