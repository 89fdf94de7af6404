"""HTTP over run and look; tuning is started as a subprocess (extra: serve)."""
