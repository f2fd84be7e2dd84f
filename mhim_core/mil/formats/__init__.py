"""Checkpoints of other code, a file a format. What a class's decorator says is all there is to register."""
