"""INT8: which frames to measure, the ranges they give, and the graph with those ranges written into it."""
