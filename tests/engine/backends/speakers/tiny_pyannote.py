"""A pipeline of pyannote.audio with random weights, made by the Python that has it: `tiny_pyannote.py DIRECTORY`.

It has the form of `community-1` (segmentation, embedding, PLDA, a configuration) and knows nothing of speech.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from pyannote.audio import __version__
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.models.embedding import XVectorSincNet
from pyannote.audio.models.segmentation import PyanNet

DIMENSION = 8

CONFIGURATION = f"""\
dependencies:
  pyannote.audio: {__version__}
pipeline:
  name: pyannote.audio.pipelines.SpeakerDiarization
  params:
    clustering: VBxClustering
    segmentation: $model/segmentation
    embedding: $model/embedding
    embedding_exclude_overlap: true
    plda: $model/plda
params:
  clustering:
    threshold: 0.6
    Fa: 0.07
    Fb: 0.8
  segmentation:
    min_duration_off: 0.0
"""

SEGMENTATION = Specifications(
    problem=Problem.MONO_LABEL_CLASSIFICATION,
    resolution=Resolution.FRAME,
    duration=10.0,
    classes=["speaker#1", "speaker#2", "speaker#3"],
    powerset_max_classes=2,
    permutation_invariant=True,
)
EMBEDDING = Specifications(
    problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0, classes=["one", "two"]
)


def save(model: torch.nn.Module, specifications: Specifications, directory: Path) -> None:
    model.specifications = specifications
    model.setup()
    directory.mkdir(parents=True)
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": "2.0.0",
    }
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, directory / "pytorch_model.bin")


def main() -> None:
    directory = Path(sys.argv[1])
    torch.manual_seed(0)
    lstm = {"hidden_size": 4, "num_layers": 1, "bidirectional": True, "monolithic": True, "dropout": 0.0}
    save(PyanNet(lstm=lstm, linear={"hidden_size": 4, "num_layers": 1}), SEGMENTATION, directory / "segmentation")
    save(XVectorSincNet(dimension=DIMENSION), EMBEDDING, directory / "embedding")
    (directory / "plda").mkdir()
    zero, one = np.zeros(DIMENSION), np.eye(DIMENSION)
    np.savez(directory / "plda" / "xvec_transform.npz", mean1=zero, mean2=zero, lda=one)
    np.savez(directory / "plda" / "plda.npz", mu=zero, tr=one, psi=np.arange(DIMENSION, 0.0, -1.0))
    (directory / "config.yaml").write_text(CONFIGURATION)


if __name__ == "__main__":
    main()
