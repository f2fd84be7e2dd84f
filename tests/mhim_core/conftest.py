"""Shapes written in signatures are checked wherever a test of the core calls them; those of flows only cost time."""

from jaxtyping import install_import_hook

_SHAPE_CHECKS = install_import_hook(["mhim_core.mil", "mhim_core.embed"], "beartype.beartype")
