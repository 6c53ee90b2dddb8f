"""Labels of a camera in three hops: python examples/three_hops.py model.onnx rtsp://192.0.2.7/stream"""

from __future__ import annotations

import sys

from runtime.api import open_segmenter, open_source

artefact, camera = sys.argv[1:3]
with open_source(camera) as source, open_segmenter(artefact) as segment:
    for frame in source:
        result = segment(frame)
        shares = {name: (result.labels == index).mean() for index, name in enumerate(segment.spec.class_names)}
        print(f"{frame.sequence}: mostly {max(shares, key=lambda name: shares[name])}", flush=True)
