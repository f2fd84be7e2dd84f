"""Models that can be used and replaced: folders, promotions, the frozen holdout, the gate. Import the submodules."""
