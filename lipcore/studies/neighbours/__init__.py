"""Success on photographs by the distance of a face's nearest neighbour."""
