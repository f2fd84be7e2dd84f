"""Flows on a schedule: cron times, records, the service, manifests for other schedulers."""
