"""Export of a network: the graph, the file formats, quantization, and checks of the file."""
