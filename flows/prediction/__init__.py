"""What predicts new slides: a run's fold models or a registered model, packaging, the page."""
