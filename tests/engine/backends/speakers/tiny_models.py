"""ONNX models of a few numbers that sherpa-onnx takes for pyannote's segmentation and a 3D-Speaker embedding.

They know nothing of speech: whatever is loud is speech, and a voice is the mean of its spectrum, so that a high tone
and a low one are two speakers. What they try is the path around such models, not how well real ones tell people apart.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 7
WINDOW = 160_000
FIELD = 991
SHIFT = 270
BANDS = 80


def segmentation() -> onnx.ModelProto:
    """`x` (N x 1 x samples) to `y` (N x frames x classes): silence, or a low or a high one of three speakers."""
    split = np.array([[[0.0, 1.0]], [[-1.0, 1.0]]], np.float32)  # what there is, and how fast it changes
    weights = np.zeros((CLASSES, 2, FIELD), np.float32)
    weights[1, 0] = 100.0 / FIELD
    weights[2, 1] = 200.0 / FIELD
    bias = np.full(CLASSES, -30.0, np.float32)
    bias[:3] = 0.0, -2.0, -2.0
    nodes = [
        helper.make_node("Conv", ["x", "split"], ["changes"], kernel_shape=[2]),
        helper.make_node("Abs", ["changes"], ["loudness"]),
        helper.make_node("Conv", ["loudness", "w", "b"], ["logits"], kernel_shape=[FIELD], strides=[SHIFT]),
        helper.make_node("Transpose", ["logits"], ["frames"], perm=[0, 2, 1]),
        helper.make_node("LogSoftmax", ["frames"], ["y"], axis=2),
    ]
    graph = helper.make_graph(
        nodes,
        "segmentation",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, "T"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "frames", CLASSES])],
        [
            numpy_helper.from_array(split, "split"),
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(bias, "b"),
        ],
    )
    return _model(
        graph,
        model_type="pyannote-segmentation-3.0",
        num_speakers="3",
        powerset_max_classes="2",
        num_classes=str(CLASSES),
        sample_rate="16000",
        window_size=str(WINDOW),
        receptive_field_size=str(FIELD),
        receptive_field_shift=str(SHIFT),
    )


def embedding() -> onnx.ModelProto:
    """`feats` (N x frames x bands) to `embs` (N x bands)."""
    nodes = [
        helper.make_node("ReduceMean", ["feats"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("ReduceMean", ["mean"], ["level"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["mean", "level"], ["embs"]),
    ]
    graph = helper.make_graph(
        nodes,
        "embedding",
        [helper.make_tensor_value_info("feats", TensorProto.FLOAT, ["N", "T", BANDS])],
        [helper.make_tensor_value_info("embs", TensorProto.FLOAT, ["N", BANDS])],
    )
    return _model(
        graph,
        framework="3d-speaker",
        language="none",
        output_dim=str(BANDS),
        sample_rate="16000",
        normalize_samples="0",
        feature_normalize_type="",
    )


def _model(graph: onnx.GraphProto, **metadata: str) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model


def write(directory: Path) -> Path:
    """Both, as an operator would have them."""
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(segmentation(), str(directory / "segmentation.onnx"))
    onnx.save(embedding(), str(directory / "embedding.onnx"))
    return directory
