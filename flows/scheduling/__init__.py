"""A flow at its times: cron, records, the service, other machinery's manifests."""
