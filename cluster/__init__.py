"""How Ray and S3 run things: sessions, embedding actors, worker groups, decoding children, storage at a URI.

Adapters around the core's plain callables. Knows no pathology and no mathematics, and never imports `flows`.
"""
