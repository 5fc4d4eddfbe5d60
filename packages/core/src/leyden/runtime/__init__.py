"""What a step runs on: the device, the numeric precision, the strategy that drives processes, and signals."""
