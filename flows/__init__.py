"""What runs, in which order: one short file per command, and the command line over them.

A flow is a function config → `flows.engine.result.FlowResult`; its module's docstring states command, inputs,
outputs and cost. The only place with Hydra, which becomes a frozen dataclass before a flow sees it. Nothing imports
flows. Commands stand here; what they share lies in packages, and no package imports a command.
"""
