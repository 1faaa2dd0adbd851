"""Builders: where names in a config become objects."""
