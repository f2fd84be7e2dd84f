"""From held-out predictions to numbers. Import from the submodules.

held_out (the rows) → calibration, risk_groups (what validation chooses) → summary (one JSON document of a run),
new_bags (one of predictions of new bags) and comparison (paired differences between runs). They are built on
row_metrics and probabilities.
"""
