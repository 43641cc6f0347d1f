"""Settings and components without Hydra: schemas, keys, errors, what may be imported."""
