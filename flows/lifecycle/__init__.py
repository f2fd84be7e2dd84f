"""The steps of a model's life: training, the gate, what sets off a retraining."""
