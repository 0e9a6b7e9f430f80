from .protocols import PROTOCOLS, Protocol
from .metrics import Scores, confusion_matrix

__all__ = ["PROTOCOLS", "Protocol", "Scores", "confusion_matrix"]
