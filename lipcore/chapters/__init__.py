"""What each chapter of the book shows: a module for each notebook, of the same name."""
