"""Experiments as YAML: what may be set (options.py) and how it is read (loading.py)."""

from hrpose.config.loading import load_config, parse_config

__all__ = ["load_config", "parse_config"]
