"""A training worker's process: what it sets up, trains, reports and saves."""
