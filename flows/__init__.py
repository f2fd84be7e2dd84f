"""What runs, in which order: one short file per command, and the command line over them.

A flow is a function config → `flows.result.FlowResult`; its module's docstring states command, inputs, outputs and
cost. The only place with Hydra, which becomes a frozen dataclass before a flow sees it. Nothing imports flows.
"""
