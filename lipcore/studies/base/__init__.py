"""What all studies share: records, workers, the rules of verdicts."""
