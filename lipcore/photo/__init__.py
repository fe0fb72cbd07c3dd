"""The photographs of a person: one or a folder of them, hidden, and a report."""
