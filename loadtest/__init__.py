"""`python -m loadtest`: 100 users against PostgreSQL, with a p95 target for each scenario (`make load`)."""
