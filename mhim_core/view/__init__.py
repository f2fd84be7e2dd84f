"""What the viewer shows of a run, of predictions or of a store, as plain functions: no web framework is known here.

Shape suffixes: N tiles of a bag or slide, C outputs, D features, S tiles of a sample.
"""
