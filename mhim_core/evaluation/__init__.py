"""From held-out predictions to numbers: calibration, thresholds, summaries, paired comparisons. Import from the submodules."""
