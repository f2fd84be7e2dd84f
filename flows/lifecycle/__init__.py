"""The steps of a model's life: training, the gate, and the trigger of a retraining."""
