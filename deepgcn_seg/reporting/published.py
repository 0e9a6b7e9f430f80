"""Published results on S3DIS with their sources. Area 5 and six-fold are different measurements."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A row of a published table, in percent; None if it was not published."""

    method: str
    oa: float | None
    miou: float
    source: str


# Six-fold table of the DeepGCNs paper, as pictured in the official PyTorch repository (misc/sem_seg_s3dis.png).
_TABLE = "DeepGCNs paper, S3DIS six-fold table"
SIX_FOLD = [
    Published("PointNet", 78.5, 47.6, _TABLE),
    Published("MS+CU", 79.2, 47.8, _TABLE),
    Published("G+RCU", 81.1, 49.7, _TABLE),
    Published("PointNet++", None, 53.2, _TABLE),
    Published("3DRNN+CF", 86.9, 56.3, _TABLE),
    Published("DGCNN", 84.1, 56.1, _TABLE),
    Published("ResGCN-28", 85.9, 60.0, _TABLE),
]
AREA_5 = [
    Published(
        "ResGCN-28, TensorFlow", None, 52.49, "official PyTorch repository, sem_seg_dense/README (blocks re-cut)"
    ),
    Published("ResGCN-28, PyTorch", None, 52.11, "official PyTorch repository, sem_seg_dense/README (HDF5 blocks)"),
]
