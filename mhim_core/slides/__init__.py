"""From a slide file to tiles: reader, resolution, tissue, grid, identity, staging. Import from the submodules."""
