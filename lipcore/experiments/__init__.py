"""One module for each table or figure: a frozen config in, records and a results file out; resumable."""
