"""The scripts that made the weights we ship."""
