"""Reports of presets that reproduce published results: measured beside published."""
