"""Every claim of the paper as a rule that what was measured meets or does not."""
