"""ONNX graphs written by hand: the builder, the students' graphs, the ways to multiply."""
