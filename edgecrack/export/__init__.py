"""Export of a trained net to ONNX, to half precision and to an engine, each step checked against the one before."""
