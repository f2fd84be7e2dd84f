"""Tiles to features: encoder cards and their registry, the encoders, and the embedder of one slide.

`card` and `registry` import the standard library alone until an encoder is loaded, so that a second run decides in
milliseconds that nothing is to do. The pieces are imported from their modules; this package re-exports nothing.
"""
