"""What MLflow shows of runs and models. The store is the truth; no flow reads the mirror."""
