"""From features and labels to predictions and metrics; the only code that fits anything on a split."""
