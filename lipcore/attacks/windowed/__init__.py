"""LIP's backward pass over windows: the graph, its backward rules, and the windows themselves."""
