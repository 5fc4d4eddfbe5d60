"""Train PyTorch models with a loop you can read and callbacks you install."""
