"""The checks of the gate, a file each. What a function's decorator says is all there is to register.

A check takes the `Contest` and yields a `Check` for each condition, also where it passes; none where it does not apply.
"""
