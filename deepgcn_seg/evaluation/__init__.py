from .metrics import Scores, confusion_matrix
from .protocols import PROTOCOLS, Protocol

__all__ = ["PROTOCOLS", "Protocol", "Scores", "confusion_matrix"]
