"""Tables of many experiments: which rows they have, how each is run, how they are shown."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[4]
"""Where configs/ and tools/ stand."""
