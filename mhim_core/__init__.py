"""Pathology and mathematics: slides, tiles, encoders, the feature store, cohorts, MIL, training, metrics, reports.

Knows no Ray, no Hydra and no workflow engine, and imports neither `cluster` nor `flows`: everything here runs, and is
tested, in one process. Nothing is re-exported: import from the submodules, since some of them load torch or OpenSlide
and the command line's help must not.
"""
