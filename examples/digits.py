"""The digits example as a script: ``tessera submit digits.py -p epochs=20 --follow``.

Parameters of a task arrive as ``--name=value``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier


def train(epochs: int, hidden: int, learning_rate: float, seed: int) -> float:
    """Train on 1,347 pictures and return the accuracy on 450 others."""
    pictures, digits = load_digits(return_X_y=True)
    parts = train_test_split(pictures / 16.0, digits, test_size=0.25, random_state=seed, stratify=digits)
    train_x, test_x, train_y, test_y = parts
    network = MLPClassifier(hidden_layer_sizes=(hidden,), learning_rate_init=learning_rate, random_state=seed)
    for epoch in range(1, epochs + 1):
        network.partial_fit(train_x, train_y, classes=np.arange(10))
        sys.stdout.write(f"epoch {epoch:3d}/{epochs}  loss {network.loss_:.4f}\n")
        sys.stdout.flush()
    return float(network.score(test_x, test_y))


def main() -> None:
    """Read the parameters, train, write ``result.json``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    values = vars(parser.parse_args())
    accuracy = train(**values)
    sys.stdout.write(f"test accuracy {accuracy:.3f}\n")
    Path("result.json").write_text(json.dumps({"accuracy": round(accuracy, 4), **values}, indent=2) + "\n")


if __name__ == "__main__":
    main()
