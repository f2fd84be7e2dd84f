"""A made-up cohort of H&E-like slides with known tumour foci: the whole path on any machine, no data needed."""
