"""Other tools' files of features, into a store and out of it: `names` is light, the formats are in `tools/`."""
