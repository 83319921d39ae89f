"""What agents and environments both need."""
