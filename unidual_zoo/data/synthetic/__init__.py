"""Data made by programs: drawn scenes in motion, the embedded data made of them, CIFAR and clips made from it."""
