"""Feature files: what they hold, where they lie, how they are committed, listed, pinned and read back.

schema        the Parquet contract, features to bytes and back
layout        keys
feature_sets  tiling × encoder = one feature set and its fingerprint
record        what is known of one committed slide
commit        put the file, then claim the slide: the first commit wins
matching      is this commit what this task asks for?
failures      recorded failures, kept apart so that they never block a success
ledger        what is left to do
manifest      the versioned list that training pins
verify        what of it is missing, damaged, orphaned
restore       a lost slide, written again to the committed bytes
bags          verified reading
"""
