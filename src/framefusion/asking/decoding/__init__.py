"""Files, addresses and folders as upright RGB pictures and the times at which they are shown. Knows no model."""
