"""`python -m bench`: what the DAL costs beside the bare drivers, as ratios next to their budgets (`make bench`)."""
