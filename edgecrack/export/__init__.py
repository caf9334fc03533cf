"""From a trained net to ONNX, to half precision and to an engine, each step held to what the step before answers."""
