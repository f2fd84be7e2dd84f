"""A flow as a job of a cluster: its words, its tables, its first step."""
