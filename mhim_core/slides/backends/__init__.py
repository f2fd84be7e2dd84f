"""The backends, a file each: what a slide's file states, and the pixels of a region; no more.

White ground, thumbnails, bad tiles, strips and tiles are above (`slides/reader.py`) and the same for every backend.
What a class's decorator says is all there is to register: `slides/registry.py` reads the names without importing a
decoder.
"""
