"""Words about pixels: the maps between frames, images, heatmaps and similarity."""
