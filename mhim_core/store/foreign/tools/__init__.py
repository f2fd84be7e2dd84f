"""Other tools' files of features, a file a tool: each registers its formats by decorator (`feature_format.py`)."""
