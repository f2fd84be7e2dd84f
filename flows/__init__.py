"""The commands, one short file each, and the command line that starts them.

A flow is a function from a config to a `flows.engine.result.FlowResult`; the docstring of its module states command,
inputs, outputs and cost. Only this package uses Hydra, and a flow sees a frozen dataclass. Nothing imports flows. What
commands share is in the packages below, none of which imports a command.
"""
