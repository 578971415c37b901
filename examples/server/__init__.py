"""A small workflow API over HTTP: what an application on dal.adapters.fastapi looks like."""
