"""Two-stage training: the step, its state, the loop over fits. Import from the submodules."""
