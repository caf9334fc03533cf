"""INT8 quantisation: the calibration frames, the activation ranges measured on them, and the quantised graph."""
