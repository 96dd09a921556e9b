"""Vision towers that encode only what changed: one file for the packed run, one for each kind of tower."""
