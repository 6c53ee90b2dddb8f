"""A trained PSPNet rewritten as fixed-size ONNX ops, and the proof that both are equal."""
