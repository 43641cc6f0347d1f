"""One string, and one hash, for equal configurations: by these, what is stored is found again."""

import hashlib
import json
from typing import Any

KEY_SCHEMA = 6  # raise it when the same config of a cell comes to mean another computation


def canonical(config: Any) -> str:
    """One string for equal configurations."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), default=str)


def digest(config: Any, length: int) -> str:
    """The start of a hash of plain values."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()[:length]


def key_of(config: dict[str, Any]) -> str:
    """The key of the cell with this config: a hash of it and of the schema's version."""
    return digest({"schema": KEY_SCHEMA, **config}, 20)
