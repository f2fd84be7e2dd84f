"""Adapters of Ray and S3 around the core's callables: sessions, actors, worker groups, decoder processes, storage.

The package contains no pathology and no mathematics, and never imports `flows`.
"""
