"""What follows from the definitions alone, to first order, each statement beside a measured check."""
