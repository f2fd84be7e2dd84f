"""Bags so large that what autograd keeps of them matters.

Of N = 200,000 instances at D = 512 every array takes 0.4 GiB. They stay in the precision they are stored in until they
are embedded, and of what is embedded one array is kept (`embedding`).
"""

CHUNK = 32_768
"""Most instances of a bag that is not large."""


def is_large(num_instances: int) -> bool:
    """Whether a bag of so many instances is large."""
    return num_instances > CHUNK
