"""The built-in aggregators, a file each or a few alike. What a class's decorator says is all there is to register:
`registry` reads the names without importing torch. Shape suffixes: see `mhim_core.mil`.
"""
