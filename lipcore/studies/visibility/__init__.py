"""Success against how visible the noise is."""
