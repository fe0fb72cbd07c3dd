"""Studies: one folder for each chapter, a frozen config in, records and a results file out; resumable."""
