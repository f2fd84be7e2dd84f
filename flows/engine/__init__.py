"""A flow as a list of steps: the runner, its records, what a flow gives back."""
