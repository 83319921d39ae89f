"""What learns: one file per method, and `base.py` with what all of them share."""
