"""Does interference end where the receptive field ends? The poster's explanation put to an experiment."""
