"""YAML presets, one per command, over the typed schemas of flows/config/commands.py."""
