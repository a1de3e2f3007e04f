"""Controls, metrics, intervals and plots."""
