"""Which points are hard among their neighbours, which labels are suspect, and what resampling by type would do.

NumPy alone: points are bag embeddings, mean tile features or tiles; where they come from is the callers' matter.
Shapes: N points, Q queries, R reference points, D features, C classes, K neighbours.
"""
