"""What synthetic rooms are made of: rectangles (:mod:`.scene`), walls and furniture, and the scanners that see them.

:mod:`deepgcn_seg.data.synthetic_rooms` furnishes rooms with it, and knows the classes and files of S3DIS.
"""
