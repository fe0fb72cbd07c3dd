"""What a step of LIP costs."""
