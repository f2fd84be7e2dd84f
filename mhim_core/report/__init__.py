"""Everything visual: heat maps, figures, an HTML page per run, a model card. From numbers and images, no store."""
