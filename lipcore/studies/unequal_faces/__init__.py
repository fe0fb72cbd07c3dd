"""One small face amid eight large ones, where separating instances can win."""
