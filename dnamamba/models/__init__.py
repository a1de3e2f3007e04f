"""Modules, their configurations and presets."""
