"""What every page of the book shares: style, tables, the page of claims."""
