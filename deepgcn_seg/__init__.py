"""DeepGCNs for point-cloud semantic segmentation (Li et al., ICCV 2019)."""

from .model import DeepGCN, load_official

__version__ = "0.1.0"
__all__ = ["DeepGCN", "load_official"]
