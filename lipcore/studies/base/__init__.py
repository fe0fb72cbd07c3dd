"""What all studies share: records, workers, verdicts."""
