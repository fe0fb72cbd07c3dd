"""What separate gradients allow beyond LIP: weights, owners, and a budget spent where it matters."""
